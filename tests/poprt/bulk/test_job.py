"""Jobs on one machine: the rows are those of encode, in order, whatever interrupts them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poprt.atomic_file import one_at_a_time
from poprt.bulk import job as jobs
from poprt.bulk import line_source, parquet_source
from poprt.bulk.columns import Columns
from poprt.bulk.work import Job, Worker
from poprt.errors import InputError, PoprtError
from tests.poprt.bulk.jobs import assert_embeds, model, parquet_file, random_texts, run, text_file

TEXTS = random_texts(300)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_source, "PIECE", 250)
    monkeypatch.setattr(parquet_source, "ROWS", 25)


def job_of(source: Path) -> Job:
    return Job(source, source.with_name("out.parquet"), model())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_rows_are_those_of_encode_in_the_order_of_the_input(tmp_path: Path, kind: str) -> None:
    source = tmp_path / f"in.{kind}"
    (text_file if kind == "txt" else parquet_file)(source, TEXTS)
    watch = run(job_of(source))
    table = pq.read_table(tmp_path / "out.parquet")
    assert_embeds(table, TEXTS)
    assert table.column_names == [*(["id"] if kind == "parquet" else []), "text", "embedding", "error"]
    assert names(tmp_path) == sorted([source.name, "out.parquet"])
    pieces, done = watch.events[0]
    assert (done, watch.events.count("piece")) == (0, pieces)
    assert pieces > 10
    assert sum(piece.rows for piece in watch.events[watch.events.index("joining") + 1 :]) == len(TEXTS)


def test_a_row_group_is_of_many_pieces_and_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet_file(tmp_path / "in.parquet", TEXTS)
    run(job_of(source))
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 1
    (tmp_path / "out.parquet").unlink()
    monkeypatch.setattr(jobs, "ROW_GROUP", 20_000)
    run(job_of(source))
    file = pq.ParquetFile(tmp_path / "out.parquet")
    rows = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert rows == [75, 75, 75, 75]
    assert_embeds(file.read(), TEXTS)


def test_an_empty_input_gives_no_rows(tmp_path: Path) -> None:
    run(job_of(text_file(tmp_path / "in.txt", [])))
    table = pq.read_table(tmp_path / "out.parquet")
    assert (len(table), table.column_names) == (0, ["text", "embedding", "error"])


def test_bad_rows_do_not_end_the_job(tmp_path: Path) -> None:
    texts: list[str | None] = [*TEXTS[:40], None, *TEXTS[40:60]]
    watch = run(job_of(parquet_file(tmp_path / "in.parquet", texts)))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["text"].to_pylist() == texts
    assert [number for number, error in enumerate(table["error"].to_pylist()) if error] == [40]
    assert table["embedding"].null_count == 1
    assert sum(piece.errors for piece in watch.events if not isinstance(piece, (tuple, str))) == 1


@pytest.mark.parametrize("stop", [1, 4, 11])
def test_an_interrupted_job_does_only_the_rest(tmp_path: Path, stop: int) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    with pytest.raises(KeyboardInterrupt):
        run(job, stop_after=stop)
    assert names(tmp_path) == ["in.txt", "out.parquet.parts"]
    watch = run(job)
    pieces, done = watch.events[0]
    assert done >= stop
    assert watch.events.count("piece") == pieces - done
    assert_embeds(pq.read_table(job.output), TEXTS)
    assert names(tmp_path) == ["in.txt", "out.parquet"]


def test_a_job_that_was_stopped_while_it_joined_joins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(job)
    assert run(job).events[1] == "joining"
    assert_embeds(pq.read_table(job.output), TEXTS)


def test_a_job_that_was_stopped_at_its_very_end_is_cleaned_up(tmp_path: Path) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    with pytest.raises(KeyboardInterrupt):
        run(job, stop_after=3)
    shutil.copytree(tmp_path / "out.parquet.parts", tmp_path / "kept")
    run(job)
    shutil.move(tmp_path / "kept", tmp_path / "out.parquet.parts")  # as if it had not been removed
    assert run(job).events == []
    assert names(tmp_path) == ["in.txt", "out.parquet"]
    assert_embeds(pq.read_table(job.output), TEXTS)


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("input", "of another job: input was sha256:"),
        ("model", "of another job: model was sha256:"),
        ("columns", "output column was embedding and is vector"),
        ("dimensions", "dimensions was None and is 8"),
        ("prompt", "prompt name was None and is query"),
    ],
)
def test_the_rest_of_another_job_is_not_done(tmp_path: Path, what: str, complaint: str) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    with pytest.raises(KeyboardInterrupt):
        run(job, stop_after=2)
    changed = {
        "input": job,
        "model": replace(job, model=model("other")),
        "columns": replace(job, columns=Columns(output="vector")),
        "dimensions": replace(job, dimensions=8),
        "prompt": replace(job, prompt_name="query"),
    }[what]
    if what == "input":
        text_file(job.source, [TEXTS[0].upper(), *TEXTS[1:]])  # of the same size
    with pytest.raises(PoprtError, match=complaint):
        run(changed)
    text_file(job.source, TEXTS)
    run(job)  # the first one can still be finished
    assert_embeds(pq.read_table(job.output), TEXTS)


def test_files_may_be_moved_between_two_runs(tmp_path: Path) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    with pytest.raises(KeyboardInterrupt):
        run(job, stop_after=5)
    shutil.move(tmp_path / "in.txt", tmp_path / "moved.txt")
    shutil.copy(job.model, tmp_path / "copied.popef")
    assert run(replace(job, source=tmp_path / "moved.txt", model=tmp_path / "copied.popef")).events[0][1] >= 5
    assert_embeds(pq.read_table(job.output), TEXTS)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    with pytest.raises(KeyboardInterrupt):
        run(job, stop_after=5)
    part = next((tmp_path / "out.parquet.parts").glob("*/*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(PoprtError, match=f"{part.name}' is damaged: remove it"):
        run(job)
    part.unlink()
    run(job)
    assert_embeds(pq.read_table(job.output), TEXTS)


def test_an_input_that_changes_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    do = Worker.do

    async def disturbed(self: Worker, piece: int) -> object:
        if piece == 3:
            text_file(job.source, [*TEXTS, "more"])
        return await do(self, piece)

    monkeypatch.setattr(Worker, "do", disturbed)
    with pytest.raises(PoprtError, match="was changed while it was read"):
        run(job)
    assert not job.output.exists()


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    with one_at_a_time(job.output), pytest.raises(PoprtError, match="another process writes it"):
        run(job)


def test_an_error_of_the_disk_ends_the_job_and_what_was_done_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    do = Worker.do

    async def full(self: Worker, piece: int) -> object:
        if piece == 6:
            raise OSError(28, "No space left on device")
        return await do(self, piece)

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "do", full)
        with pytest.raises(OSError, match="No space"):
            run(job)
    assert run(job).events[0][1] > 0
    assert_embeds(pq.read_table(job.output), TEXTS)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"source": "none.txt"}, "there is no such file"),
        ({"source": "in.csv"}, r"expected a file that ends with \.parquet"),
        ({"source": "folder.txt"}, "is no file"),
        ({"model": "classify"}, "is for sequence-classification; this needs one for embedding"),
        ({"model": "in.txt"}, "is not an executable|no executable|not a"),
        ({"output": "out.csv"}, r"expected a name that ends with \.parquet"),
        ({"output": "none/out.parquet"}, "there is no folder"),
        ({"output": "taken.parquet"}, "exists: remove it"),
        ({"columns": Columns(output="text")}, "there is a column 'text' already"),
        ({"dimensions": 9}, "dimensions is 9"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_and_leaves_nothing(
    tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    job = job_of(text_file(tmp_path / "in.txt", TEXTS))
    text_file(tmp_path / "in.csv", TEXTS)
    (tmp_path / "folder.txt").mkdir()
    pq.write_table(pa.table({"text": ["mine"]}), tmp_path / "taken.parquet")
    ((name, value),) = change.items()
    if isinstance(value, str):
        value = model(value) if value == "classify" else tmp_path / value
    before = names(tmp_path)
    with pytest.raises((PoprtError, InputError), match=complaint):
        run(replace(job, **{name: value}))
    assert names(tmp_path) == before
    assert pq.read_table(tmp_path / "taken.parquet")["text"].to_pylist() == ["mine"]
