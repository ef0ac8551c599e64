"""What a job has done so far: a folder beside its output, with a file for each piece that is done.

A file is there whole or not at all. So whatever ends a job, the files say what is left to do. A piece that is done
twice is written twice, with the same rows, under the same name.

    OUTPUT.parquet.parts/job.json                   what the job is
    OUTPUT.parquet.parts/000000/000000041.parquet   the rows of piece 41
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from poprt.atomic_file import replacing
from poprt.errors import PoprtError

SUFFIX = ".parts"
#: Pieces whose files share a folder.
_SHARED = 1000
_FACTS = "job.json"
_NAME = re.compile(r"(\d{9,})\.parquet")


class Parts:
    """The pieces of one job.

    Args:
        output: the file that they will become.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(output.name + SUFFIX)

    def begin(self, facts: Mapping[str, str]) -> None:
        """Make the folder, or see that the one that is there is of the same job.

        Args:
            facts: name -> value of all that the rows depend on.

        Raises:
            PoprtError: it is of another job; the message names what changed.
            OSError: it cannot be made.
        """
        path = self.folder / _FACTS
        if not path.exists():
            self.folder.mkdir(exist_ok=True)
            with replacing(path) as file:
                file.write(json.dumps(facts, indent=1).encode())
            return
        earlier = _read_facts(path)
        changes = [
            f"{name} was {earlier.get(name, 'none')} and is {facts.get(name, 'none')}"
            for name in dict.fromkeys((*earlier, *facts))
            if earlier.get(name) != facts.get(name)
        ]
        if changes:
            raise PoprtError(
                f"{str(self.folder)!r} is of another job: {'; '.join(changes)}. Finish that one as it was begun, or "
                "remove the folder to begin anew"
            )

    def path(self, piece: int) -> Path:
        """The file of a piece."""
        return self.folder / f"{piece // _SHARED:06d}" / f"{piece:09d}.parquet"

    def done(self) -> set[int]:
        """The pieces that are done."""
        names = (path.name for path in self.folder.glob("*/*.parquet"))
        return {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}

    def write(self, piece: int, table: pa.Table) -> None:
        """Write the rows of a piece as one row group. Raises OSError where they cannot be written."""
        path = self.path(piece)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file, parquet_writer(file, table.schema) as writer:
            writer.write_table(table)

    def tables(self, pieces: int) -> Iterator[pa.Table]:
        """The rows of all pieces, in order.

        Raises:
            PoprtError: a file is not what was written.
        """
        for piece in range(pieces):
            path = self.path(piece)
            try:
                yield pq.read_table(path, partitioning=None)
            except (pa.ArrowException, OSError) as error:
                raise PoprtError(f"{str(path)!r} is damaged: remove it, and go on: {error}") from error

    def remove(self) -> None:
        """Remove the folder. What says whose it is goes last."""
        for folder in self.folder.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def parquet_writer(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    """A writer that looks for values that come again in plain columns alone: numbers of embeddings hardly do."""
    return pq.ParquetWriter(
        file, schema, use_dictionary=[item.name for item in schema if not pa.types.is_nested(item.type)]
    )


def _read_facts(path: Path) -> dict[str, str]:
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise PoprtError(f"{str(path)!r} is damaged: remove its folder to begin anew") from error
    if not isinstance(facts, dict):
        raise PoprtError(f"{str(path)!r} is damaged: remove its folder to begin anew")
    return facts
