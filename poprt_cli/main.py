"""The command `poprt`: convert an ONNX model. `poprt pack` makes a text model of a folder, `poprt serve` and
`poprt embed` run it.
"""

from __future__ import annotations

import logging
from typing import Any

import click
from click.shell_completion import get_completion_class

from passes import get_registered_passes
from passes.registry import announced_passes
from poprt_cli.commands import CONTEXT_SETTINGS, DefaultCommand
from poprt_cli.config_yaml import keep_words, options_of_models
from poprt_cli.custom import import_files
from poprt_cli.embed import embed_command
from poprt_cli.export_triton import export_triton_command
from poprt_cli.logs import configure_logging
from poprt_cli.options import WITHOUT_EFFECT, action_options, ipu_options, model_options, rewrite_options
from poprt_cli.pack import pack_command
from poprt_cli.serve import serve_command

logger = logging.getLogger("poprt")


class _Poprt(DefaultCommand):
    """Keeps its words: the options of several models are read from them, and from the file of ``--config_yaml``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words."""
        keep_words(ctx, args)
        return super().parse_args(ctx, args)


@click.command("poprt", cls=_Poprt, context_settings=CONTEXT_SETTINGS)
@model_options
@rewrite_options
@action_options
@ipu_options
@click.version_option(None, "-v", "--version", package_name="poprt", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:
    """Rewrite, pack and compile an ONNX model. `poprt pack --help` is about folders of text models, `poprt serve
    --help` about serving them, `poprt embed --help` about embedding files of texts.

    The converted model is written to --output_dir, and a table of what was done is printed. Options without a
    description steer only an IPU or go with FP8: they are accepted and have no effect here.
    """
    if ctx.invoked_subcommand is not None:
        return
    configure_logging(options["logging_level"])
    if options["print_completion"]:
        _print_completion(options["print_completion"])
        return
    for option in ("custom_pass_config", "custom_shape_inference"):
        import_files(option, options[option])
    if options["list_all_passes"]:
        _list_passes()
        return
    models = options_of_models(ctx)
    for name, reason in WITHOUT_EFFECT.items():
        if any(one[name] for one in (options, *models)):
            logger.warning("--%s has no effect here: %s", name, reason)
    if not options["input_model"] and not models:
        raise click.UsageError("Missing option '-i' / '--input_model'.")
    from poprt_cli.convert import convert, convert_and_fuse  # here: it brings the engine and the compiler

    if models:
        convert_and_fuse(models, options)
    else:
        convert(options)


cli.add_command(pack_command)
cli.add_command(embed_command)
cli.add_command(export_triton_command)
cli.add_command(serve_command)


def _list_passes() -> None:
    for name in get_registered_passes():
        click.echo(name)
    logger.info("accepted, and without effect here: %s", ", ".join(announced_passes()))


def _print_completion(shell: str) -> None:
    completion = get_completion_class(shell)
    assert completion is not None, f"click knows no shell {shell}"
    click.echo(completion(cli, {}, "poprt", "_POPRT_COMPLETE").source())


def main() -> None:
    """Run the command and exit."""
    cli(prog_name="poprt")


if __name__ == "__main__":
    main()
