"""`poprt embed`: files of texts in, Parquet out, on one machine; and what a signal leaves of it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[embed]'")

import pyarrow.parquet as pq  # noqa: E402

from poprt_cli.embed_progress import Bars  # noqa: E402
from tests.poprt.bulk.jobs import assert_embeds, matrix, model, parquet_file, random_texts, text_file, vectors  # noqa: E402
from tests.poprt_cli.command import Poprt, assert_fails  # noqa: E402

TEXTS = random_texts(300)
#: The command with small pieces, so that a short job has many.
SMALL = "from poprt.bulk import line_source; line_source.PIECE = 500; from poprt_cli.main import main; main()"


def test_lines_become_rows_with_embeddings(poprt: Poprt, tmp_path: Path) -> None:
    text_file(tmp_path / "in.txt", TEXTS)
    result = poprt("embed", "in.txt", "-o", "out.parquet", "--model", model(), "--lanes", 1, "--token-budget", 512)
    assert result.exit_code == 0, result.output
    assert result.stdout == "out.parquet: 300 rows, 0 of them with errors\n"
    assert_embeds(pq.read_table("out.parquet"), TEXTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.parquet"]


def test_options_name_columns_prompt_and_size(poprt: Poprt, tmp_path: Path) -> None:
    rows = [{"id": number, "body": text, "error": None} for number, text in enumerate([*TEXTS[:20], None])]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    result = poprt(
        *("embed", "in.jsonl", "-o", "out.parquet", "-m", model(), "--column", "body", "--output_column", "vector"),
        *("--error-column", "why", "--prompt-name", "query", "--dimensions", 8),
    )
    assert result.exit_code == 0, result.output
    assert "21 rows, 1 of them with errors" in result.stdout
    table = pq.read_table("out.parquet")
    assert table.column_names == ["id", "body", "error", "vector", "why"]
    assert "expected a string" in table["why"].to_pylist()[20]
    expected = vectors([f"how my {text}" for text in TEXTS[:20]])[:, :8]
    assert abs(matrix(table["vector"].slice(0, 20)) - expected).max() < 2e-5


def test_a_finished_job_is_not_done_again(poprt: Poprt, tmp_path: Path) -> None:
    words = ["embed", "in.parquet", "-o", "out.parquet", "-m", model()]
    parquet_file(tmp_path / "in.parquet", TEXTS)
    assert poprt(*words).exit_code == 0
    assert_fails(poprt(*words), "out.parquet' exists: remove it")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.txt"], "none.txt': there is no such file"),
        (["in.csv"], "expected a file that ends with .parquet, .jsonl, .ndjson, .txt"),
        (["broken.parquet"], "broken.parquet': cannot be read as Parquet"),
        (["in.parquet", "--column", "body"], "there is no column 'body'; the columns are 'id', 'text'"),
        (["in.parquet", "--column", "id"], "column 'id' is of type int64; expected strings"),
        (["in.parquet", "-m", "in.txt"], "in.txt"),
        (["in.parquet", "-m", "none.popef"], "none.popef"),
        (["in.parquet", "-m", "classify"], "is for sequence-classification; this needs one for embedding"),
        (["in.parquet", "--prompt-name", "nobody"], "the model's prompts are 'query'"),
        (["in.parquet", "--dimensions", "9"], "dimensions is 9"),
        (["in.parquet", "--output-column", "id"], "output_column: there is a column 'id' already"),
        (["in.parquet", "-o", "in.parquet"], "in.parquet' exists"),
        (["in.parquet", "-o", "out.csv"], "expected a name that ends with .parquet"),
        (["in.parquet", "--actors", "2"], "--actors: it needs --ray"),
        (["in.parquet", "--ray", "local", "--lanes", "2"], "--lanes: --actor-cpus says it on Ray"),
    ],
)
def test_bad_input_is_one_line(poprt: Poprt, tmp_path: Path, words: list[str], message: str) -> None:
    for name in ("in.txt", "in.csv"):
        text_file(tmp_path / name, TEXTS)
    (tmp_path / "broken.parquet").write_text("no")
    parquet_file(tmp_path / "in.parquet", TEXTS)
    before = sorted(path.name for path in tmp_path.iterdir())
    words = [str(model(word)) if word == "classify" else word for word in words]
    options = {"-o": "out.parquet", "-m": model()}
    more = [word for option, value in options.items() if option not in words for word in (option, value)]
    assert_fails(poprt("embed", *words, *more), message)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(("package", "words"), [("pyarrow", []), ("ray", ["--ray", "local"])])
def test_a_package_that_is_not_there_is_named(
    poprt: Poprt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, words: list[str]
) -> None:
    text_file(tmp_path / "in.txt", TEXTS)
    for name in [name for name in sys.modules if name.startswith(("poprt.bulk", "poprt.ray"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"pyarrow": "embed", "ray": "ray"}[package]
    result = poprt("embed", "in.txt", "-o", "out.parquet", "-m", model(), *words)
    assert_fails(result, f"{package} is not installed: pip install 'poprt[{extra}]'")


def test_the_bars_count_what_is_done() -> None:
    from poprt.bulk.work import PieceDone

    with Bars() as bars:
        bars.start(3, 1)
        bars.advance(PieceDone(10, 1))
        assert (bars.pieces, bars.done) == (3, 2)
        bars.joining()
        bars.joined(PieceDone(10, 1))
        bars.joined(PieceDone(5, 0))
    assert (bars.rows, bars.errors) == (15, 1)


def started(folder: Path) -> subprocess.Popen[str]:
    words = ["embed", "in.txt", "-o", "out.parquet", "-m", str(model()), "--lanes", "1", "--token-budget", "512"]
    return subprocess.Popen(
        [sys.executable, "-c", SMALL, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parts(folder: Path) -> set[tuple[str, int]]:
    """The parts, and when each was written."""
    return {(path.name, path.stat().st_mtime_ns) for path in folder.glob("out.parquet.parts/*/0*.parquet")}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_leaves_what_is_done_and_the_same_command_does_the_rest(
    tmp_path: Path, number: signal.Signals
) -> None:
    texts = random_texts(6000, seed=1)
    text_file(tmp_path / "in.txt", texts)
    process = started(tmp_path)
    deadline = time.monotonic() + 60
    while len(parts(tmp_path)) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    done = parts(tmp_path)
    assert len(done) >= 5
    assert not (tmp_path / "out.parquet").exists()
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number, errors
        first, command, last = filter(None, errors.splitlines())
        assert first.endswith("pieces are done and kept. Go on with:")
        assert command.startswith("poprt embed in.txt -o out.parquet -m ")
        assert shlex.split(command)[-4:] == ["--lanes", "1", "--token-budget", "512"]
        assert last == f"poprt: error: stopped by {number.name}"
    process = started(tmp_path)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "out.parquet: 6000 rows, 0 of them with errors\n"), errors
    assert_embeds(pq.read_table(tmp_path / "out.parquet"), texts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.parquet"]
