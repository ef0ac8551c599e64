"""A job from its beginning, or from where it was interrupted, to its output."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from poprt.atomic_file import check_target, one_at_a_time, replacing
from poprt.bulk.parts import Parts, parquet_writer
from poprt.bulk.rows import VECTOR
from poprt.bulk.source import Source, open_source
from poprt.bulk.work import Execute, Job, PieceDone
from poprt.errors import PoprtError
from poprt.executable import TEXT, Executable
from poprt.text.dimensions import check_dimensions
from poprt.text.facts import EMBEDDING, TextFacts, read_facts
from poprt.text.prompts import prompt_text

#: How input is cut into pieces. Another number refuses to go on with the pieces of an earlier version.
FORMAT = "1"
#: Bytes of rows from which on a row group is written.
ROW_GROUP = 16 << 20
#: The key of the output's metadata whose value says of which job it is.
_KEY = b"poprt.job"


class Progress(Protocol):
    """Is told of a job while it runs."""

    def start(self, pieces: int, done: int) -> None:
        """There are so many pieces; an earlier run has done some of them."""

    def advance(self, piece: PieceDone) -> None:
        """One more is done."""

    def joining(self) -> None:
        """All are done."""

    def joined(self, piece: PieceDone) -> None:
        """One more stands in the output."""


def run(job: Job, execute: Execute, progress: Progress) -> bool:
    """Do a job, or the rest of it.

    Args:
        job: what is to be done.
        execute: does the pieces.
        progress: is told of them.

    Returns:
        False where all was done before, and the output stood there.

    Raises:
        PoprtError: an option or a file is wrong, or what an earlier run left is of another job. Nothing was changed.
        OSError: the output cannot be written.
    """
    source = open_source(job.source, job.columns.text)
    job.columns.check(source.schema.names)
    _check_model(job)
    _check_output(job)
    schema = job.columns.schema(source.schema, VECTOR)
    with ExitStack() as stack:
        try:
            stack.enter_context(one_at_a_time(job.output, wait=False))
        except BlockingIOError:
            raise PoprtError(f"{str(job.output)!r}: another process writes it") from None
        return _run(job, source, schema, execute, progress)


def _run(job: Job, source: Source, schema: pa.Schema, execute: Execute, progress: Progress) -> bool:
    before = _state(job.source)
    facts = _facts(job)
    identity = hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest().encode()
    parts = Parts(job.output)
    if job.output.exists():
        if not parts.folder.exists() or _identity(job.output) != identity:
            raise PoprtError(f"{str(job.output)!r} exists: remove it, or give another --output")
        parts.remove()  # the run before was ended when all but this was done
        return False
    parts.begin(facts)
    done = parts.done()
    progress.start(source.pieces, len(done))
    missing = [piece for piece in range(source.pieces) if piece not in done]
    if missing:
        execute(job, missing, progress.advance)
    if _state(job.source) != before:
        raise PoprtError(f"{str(job.source)!r} was changed while it was read: remove {str(parts.folder)!r}, begin anew")
    progress.joining()
    schema = schema.with_metadata({**(schema.metadata or {}), _KEY: identity})
    _join(job, parts.tables(source.pieces), schema, progress)
    parts.remove()
    return True


def _join(job: Job, tables: Iterable[pa.Table], schema: pa.Schema, progress: Progress) -> None:
    """Write the rows of all pieces, in order, in row groups of about :data:`ROW_GROUP` bytes."""
    waiting: list[pa.Table] = []
    with replacing(job.output) as file, parquet_writer(file, schema) as writer:
        for table in tables:
            waiting.append(table)
            if sum(item.nbytes for item in waiting) >= ROW_GROUP:
                _write_group(writer, waiting, schema)
            progress.joined(PieceDone.of(table, job.columns))
        _write_group(writer, waiting, schema)


def _write_group(writer: pq.ParquetWriter, waiting: list[pa.Table], schema: pa.Schema) -> None:
    if waiting:
        writer.write_table(pa.concat_tables(waiting).replace_schema_metadata(schema.metadata))
        waiting.clear()


def _check_output(job: Job) -> None:
    """See before any work that the output is no input, and can stand where it should."""
    if job.output.suffix.lower() != ".parquet":
        raise PoprtError(f"--output: {str(job.output)!r}: expected a name that ends with .parquet")
    check_target(job.output)
    if not job.output.parent.is_dir():
        raise PoprtError(f"--output: {str(job.output)!r}: there is no folder {str(job.output.parent)!r}")


def _check_model(job: Job) -> None:
    """Raise PoprtError where the model does not give embeddings as the job wants them."""
    facts = text_facts(job.model)
    if facts.task != EMBEDDING:
        raise PoprtError(f"{str(job.model)!r} is for {facts.task}; this needs one for {EMBEDDING}")
    prompt_text(facts, job.prompt_name)
    check_dimensions(facts, job.dimensions)


def text_facts(path: Path) -> TextFacts:
    """What a text model says of itself, without loading it to run.

    Raises:
        PoprtError: it is no text model.
        OSError: it cannot be read.
    """
    executable = Executable(path, check_hash=False)
    if not executable.texts:
        raise PoprtError(
            f"{str(path)!r} has no tokenizer: make it of a model's folder with `poprt pack FOLDER -o FILE`"
        )
    return read_facts(executable.texts[TEXT], executable.manifest)


def _facts(job: Job) -> dict[str, str]:
    """All that the rows of the output depend on; names of files do not count."""
    return {
        "format": FORMAT,
        "input": _digest(job.source),
        "kind of input": job.source.suffix.lower(),
        "model": _digest(job.model),
        "column": job.columns.text,
        "output column": job.columns.output,
        "error column": job.columns.error,
        "prompt name": str(job.prompt_name),
        "dimensions": str(job.dimensions),
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _state(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _identity(path: Path) -> bytes | None:
    """Of which job a Parquet file is; None where it does not say."""
    try:
        return (pq.read_schema(path).metadata or {}).get(_KEY)
    except (pa.ArrowException, OSError):
        return None
