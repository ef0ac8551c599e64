"""Where the results of `poprt` go, and that they harm nothing there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poprt.atomic_file import check_target
from poprt.errors import PoprtError
from poprt_cli.model_files import prepare_folder


@dataclass(frozen=True)
class Outputs:
    """The files to write.

    Attributes:
        folder: ``--output_dir``.
        model: the converted model.
        executable: the executable; None without ``--export_popef``.
    """

    folder: Path
    model: Path
    executable: Path | None

    @classmethod
    def of(cls, options: dict[str, Any]) -> Outputs:
        """Read them from the options."""
        folder = Path(options["output_dir"])
        model = folder / (options["output_model"] or f"{Path(options['input_model']).stem}.optimized.onnx")
        return cls(folder, model, folder / "executable.popef" if options["export_popef"] else None)

    @property
    def by_option(self) -> dict[str, Path]:
        """Each file, by the option that asks for it."""
        executable = {} if self.executable is None else {"--export_popef": self.executable}
        return {"--output_model": self.model, **executable}

    def check_names(self, source: Path) -> None:
        """See that no two of ``source`` and the outputs are the same file, however they are spelled.

        Raises:
            PoprtError: two are; the message names both options.
        """
        seen: dict[str, str] = {}
        for option, path in (("--input_model", source), *self.by_option.items()):
            other = seen.setdefault(os.path.normcase(os.path.realpath(path)), option)
            if other != option:
                raise PoprtError(
                    f"{option} would overwrite {str(path)!r}, which is {other} too; give --output_model another name, "
                    "or another folder in --output_dir"
                )

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Make the output folder, and see before any work that the outputs can be written.

        Folders that were made here and are empty when the work inside fails are removed again.

        Raises:
            PoprtError: one cannot.
        """
        missing = [folder for folder in (self.folder, *self.folder.parents) if not os.path.lexists(folder)]
        try:
            self._prepare()
            yield
        except BaseException:
            _remove_empty(missing)
            raise

    def _prepare(self) -> None:
        prepare_folder(self.folder)
        for option, path in self.by_option.items():
            try:
                check_target(path)
                if not path.parent.is_dir():
                    raise FileNotFoundError(f"there is no folder {str(path.parent)!r}")
            except OSError as error:
                raise PoprtError(f"{option} cannot be written to {str(path)!r}: {error.strerror or error}") from error


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the inner ones first, up to the first that is not empty or was never made."""
    for folder in folders:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return
