"""Options, the file of --config, names of models: what is refused, each in one line."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from poprt.errors import PoprtError
from poprt.serve import names, start
from poprt.serve.names import named_models
from poprt.serve.options import ServeOptions
from poprt_cli.main import cli
from poprt_cli.serve import serve_command

KEY = "s3cret"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that nobody opens."""
    path = tmp_path / "model.popef"
    path.write_bytes(b"")
    return path


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command without serving: the result, and what would have been served."""
    calls: list[tuple[dict[str, str], ServeOptions]] = []
    monkeypatch.setattr(start, "serve", lambda models, options: calls.append((models, options)))
    monkeypatch.delenv("POPRT_API_KEY", raising=False)

    def run(*words: object) -> tuple[Result, dict[str, str], ServeOptions]:
        result = CliRunner().invoke(cli, ["serve", *map(str, words)], prog_name="poprt")
        if result.exit_code:
            return result, {}, ServeOptions()
        return result, *calls[-1]

    return run


def refused(result: Result) -> str:
    """The one line of an error."""
    (line,) = result.stderr.splitlines()
    assert line.startswith("poprt: error: ")
    assert result.exit_code in (1, 2)
    return line


def test_every_option_has_a_flag_and_the_same_default(serve: Any, model: Path) -> None:
    _, models, options = serve(f"m={model}")
    assert options == ServeOptions()
    assert models == {"m": str(model)}
    flags = {param.name for param in serve_command.params} | {"api_key", "cors_origins", "ssl_keyfile_password"}
    assert {item.name for item in dataclasses.fields(ServeOptions)} - flags == {"threads"}


def test_flags_are_read(serve: Any, model: Path) -> None:
    words = "--host 0.0.0.0 --port 0 --grpc-port 9000 --max-queue-requests 5 --max-queue-tokens 50 --max-client-batch 0"
    more = "--payload-limit 512KB --request-timeout 1.5 --receive_timeout 500ms --drain-timeout 2m --auto-truncate"
    rest = "--cors-origin https://a --cors-origin https://b --lanes 2 --token-budget 64 --tokenizer-threads 1"
    last = "--workers 3 --log-format json --no-access-log --typical-lengths 12,20"
    _, _, options = serve(f"m={model}", *words.split(), *more.split(), *rest.split(), *last.split())
    assert options == ServeOptions(
        host="0.0.0.0", port=0, grpc_port=9000, max_queue_requests=5, max_queue_tokens=50, max_client_batch=0,
        payload_limit=512_000, request_timeout=1.5, receive_timeout=0.5, drain_timeout=120.0, auto_truncate=True,
        cors_origins=("https://a", "https://b"), lanes=2, token_budget=64, tokenizer_threads=1, workers=3,
        log_format="json", access_log=False, typical_lengths=(12, 20),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "count"), [("2MB", 2_000_000), ("1 kb", 1000), ("1KiB", 1024), ("1.5MB", 1_500_000), ("77", 77)]
)
def test_sizes(serve: Any, model: Path, size: str, count: int) -> None:
    assert serve(f"m={model}", "--payload-limit", size)[2].payload_limit == count


@pytest.mark.parametrize(
    "words",
    [
        ("--payload-limit", "2 parsecs"),
        ("--payload-limit", "-1"),
        ("--payload-limit", "0"),
        ("--request-timeout", "0"),
        ("--request-timeout", "nan"),
        ("--receive-timeout", "soon"),
        ("--drain-timeout", "-3"),
        ("--port", "65536"),
        ("--workers", "0"),
        ("--lanes", "many"),
        ("--typical-lengths", "12,none"),
        ("--log-format", "xml"),
        ("--grpc-port", "8000"),
        ("--ssl-keyfile", "key.pem"),
    ],
)
def test_a_value_out_of_range_names_its_option(serve: Any, model: Path, words: tuple[str, str]) -> None:
    line = refused(serve(f"m={model}", *words)[0])
    assert words[0].lstrip("-") in line.replace("_", "-")


def test_a_key_comes_from_a_file_or_the_environment(
    serve: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    options = serve(f"m={model}", "--api-key-file", file)[2]
    assert options.api_key == KEY
    assert KEY not in repr(options)
    monkeypatch.setenv("POPRT_API_KEY", "another")
    assert serve(f"m={model}")[2].api_key == "another"
    assert serve(f"m={model}", "--api-key-file", file)[2].api_key == KEY


def test_a_key_is_not_taken_from_the_command_line(serve: Any, model: Path) -> None:
    line = refused(serve(f"m={model}", "--api-key", KEY)[0])
    assert "--api-key-file" in line
    assert "POPRT_API_KEY" in line
    assert KEY not in line


@pytest.mark.parametrize("content", ["", "\n", "two words", "schl\u00fcssel"])
def test_a_key_that_is_none_is_refused(serve: Any, model: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "key"
    file.write_text(content, encoding="utf-8")
    line = refused(serve(f"m={model}", "--api-key-file", file)[0])
    assert "api" in line
    assert "two words" not in line


def test_an_empty_variable_does_not_let_everybody_in(serve: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPRT_API_KEY", "")
    assert "POPRT_API_KEY is set and empty" in refused(serve(f"m={model}")[0])


def test_a_file_has_the_same_keys_and_the_command_line_comes_first(serve: Any, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        f"models:\n  first: {model}\n  second: {model}\nport: 9001\nmax-queue-tokens: 100\npayload_limit: 1MB\n"
        "request-timeout: 2\nauto-truncate: true\ncors-origin: [https://a, https://b]\naccess-log: false\nlanes:\n"
        "typical-lengths: [12, 20]\n"
    )
    _, models, options = serve("--config", file, "--port", "9002")
    assert models == {"first": str(model), "second": str(model)}
    assert options == ServeOptions(
        port=9002, max_queue_tokens=100, payload_limit=1_000_000, request_timeout=2.0, auto_truncate=True,
        cors_origins=("https://a", "https://b"), access_log=False, typical_lengths=(12, 20),
    )  # fmt: skip
    assert serve(f"other={model}", "--config", file)[1] == {"other": str(model)}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("max-queue-token: 5", "'max-queue-tokens'"),
        ("prot: 5", "'port'"),
        ("config: other.yaml", "'config'"),
        ("api-key: s3cret", "'api-key-file'"),
        ("port: 5\nport_: 6", "'port'"),
        ("grpc-port: 5\ngrpc_port: 6", "twice"),
        ("port: [1, 2]", "port is one value"),
        ("port: ninety", "'ninety'"),
        ("- port", "expected keys"),
        ("", "expected keys"),
        ("port: {", "no YAML"),
        ("port: \0", "no YAML"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    serve: Any, model: Path, tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(content)
    line = refused(serve(f"m={model}", "--config", file)[0])
    assert named in line
    assert "s3cret" not in line


def test_the_file_of_the_page_is_read(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name in ("minilm.popef", "reranker.popef"):
        Path(name).write_bytes(b"")
    Path("key").write_text(KEY)
    Path("serve.yaml").write_text(text.replace("/run/secrets/key", "key"))
    result, models, options = serve("--config", "serve.yaml")
    assert result.exit_code == 0, result.stderr
    assert models == {"minilm": "minilm.popef", "reranker": "reranker.popef"}
    assert options == ServeOptions(port=9000, api_key=KEY, max_queue_tokens=100000)


def test_every_flag_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    shown = [param for param in serve_command.params if isinstance(param, click.Option) and not param.hidden]
    assert [param.opts[0] for param in shown if f"`{param.opts[0]}`" not in page] == []


def test_a_file_that_is_not_there_is_named(serve: Any, tmp_path: Path) -> None:
    assert "nowhere.yaml" in refused(serve("--config", tmp_path / "nowhere.yaml")[0])


def test_names_of_models(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_own_name", lambda path: Path(path).stem)
    odd = tmp_path / "a=b.popef"
    odd.write_bytes(b"")
    assert named_models([f"org/m-1={model}", str(model), str(odd)]) == {
        "org/m-1": str(model),
        "model": str(model),
        "a=b": str(odd),
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "no model to serve"),
        (["m=/nowhere/x.popef"], "'/nowhere/x.popef'"),
        (["/nowhere/x.popef"], "'/nowhere/x.popef'"),
        (["m="], "expected NAME=FILE"),
        (["=x.popef"], "is no name"),
        (["a b=x.popef"], "is no name"),
    ],
)
def test_a_model_that_is_none_is_refused(words: list[str], named: str) -> None:
    with pytest.raises(PoprtError, match=named):
        named_models(words)


def test_two_models_of_one_name_are_refused(serve: Any, model: Path) -> None:
    assert "two models have the name 'm'" in refused(serve(f"m={model}", f"m={model}")[0])


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PoprtError, match="there is no file"):
        named_models([f"m={tmp_path}"])


@pytest.mark.parametrize(
    "options",
    [
        {"port": "8000"},
        {"port": True},
        {"max_queue_requests": 0},
        {"payload_limit": 0},
        {"request_timeout": 0},
        {"request_timeout": float("inf")},
        {"drain_timeout": "1"},
        {"auto_truncate": 1},
        {"host": ""},
        {"cors_origins": "https://a"},
        {"log_format": "xml"},
        {"api_key": ""},
        {"api_key": "a\nb"},
        {"ssl_cert_reqs": 3},
        {"lanes": 0},
        {"typical_lengths": [12]},
        {"typical_lengths": (12, 0)},
        {"workers": 0},
    ],
)
def test_options_in_code_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(PoprtError, match=f"^{next(iter(options))}: "):
        ServeOptions(**options)


def test_help_names_every_flag() -> None:
    text = CliRunner().invoke(cli, ["serve", "--help"], prog_name="poprt").stdout
    shown = [param for param in serve_command.params if isinstance(param, click.Option) and not param.hidden]
    assert [param.opts for param in shown if param.opts[0] not in text] == []
    assert "--api-key " not in text
