"""Each target on its corpus and on seeded mutations of it: a small part of ``make fuzz``, without a fuzzer."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutations

ROOT = Path(__file__).parents[2]

#: Faults that are known and not yet mended, by target: what a finding may name. Empty this where one is mended.
KNOWN: dict[str, tuple[str, ...]] = {}


@pytest.mark.parametrize(
    ("target", "runs"), [("container", 1200), ("text", 600), ("manifest", 1000), ("graph", 300), ("cli", 200)]
)
def test_no_input_brings_anything_but_our_errors(target: str, runs: int, tmp_path: Path) -> None:
    # In a process of its own: a crash of the engine, or an input that never ends, is a finding too.
    options = ["--runs", str(runs), "--keep_going", "--findings", str(tmp_path)]
    command = [sys.executable, "-m", "tests.fuzz", target, *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    findings = [line for line in ended.stderr.splitlines() if line.startswith("finding ")]
    unknown = [line for line in findings if not any(name in line for name in KNOWN.get(target, ()))]
    assert not unknown, ended.stderr
    assert ended.returncode == (1 if findings else 0), ended.stderr


def test_a_finding_is_reported_and_kept(tmp_path: Path) -> None:
    script = (
        "import sys, tests.fuzz.__main__ as fuzz, tests.fuzz.targets as targets\n"
        "def run(data):\n"
        "    if data == b'bad': raise KeyError(data)\n"
        "    if data == b'big': bytearray(100 << 20)\n"
        "targets.TARGETS['x'] = targets.Target(lambda: [b'good'], run, True)\n"
        "from pathlib import Path\n"
        "sys.exit(fuzz._fuzz('x', [b'good', b'bad', b'fine', b'big'], Path(sys.argv[1]), True))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert [line.partition(": ")[2].split(" at ")[0] for line in ended.stderr.splitlines()] == [
        "KeyError",
        "100 MiB of memory",
    ]
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"bad", b"big"]


def test_mutations_are_the_same_for_the_same_seed() -> None:
    seeds = [b'{"a": [1, 2], "b": {"c": "x"}}', b"PK\x03\x04" + bytes(100)]
    first, again, other = (list(itertools.islice(mutations(seeds, seed), 200)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert sum(data in seeds for data in first) < 60
