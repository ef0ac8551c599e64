"""``python -m tests.fuzz TARGET``: fuzz one target, with atheris where a time is given and it is installed.

A finding ends the process, and leaves its input in the folder ``--findings``.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import itertools
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

#: An input may take this long, and this much memory besides twice its own length.
SECONDS = 10
WALL_SECONDS = 120  # other processes may hold the cores
ALLOWANCE = 64 << 20


def main() -> None:
    """Read the options and fuzz."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=("container", "text", "manifest", "graph", "cli"))
    parser.add_argument("--runs", type=int, default=0, help="mutations of the corpus, without atheris")
    parser.add_argument("--seconds", type=int, default=0, help="time with atheris")
    parser.add_argument("--keep_going", action="store_true", help="with --runs: list every different finding")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz_findings"))
    parser.add_argument("--input", type=Path, help="run this one input, to look into a finding")
    options = parser.parse_args()
    if options.seconds:
        _fuzz_with_atheris(options.target, options.seconds, options.seed, options.findings)
        return
    from tests.fuzz.mutate import mutations
    from tests.fuzz.targets import TARGETS

    target = TARGETS[options.target]
    if options.input:
        target.run(options.input.read_bytes())
        return
    corpus = target.corpus()
    inputs = itertools.chain(corpus, itertools.islice(mutations(corpus, options.seed), options.runs))
    sys.exit(1 if _fuzz(options.target, inputs, options.findings, options.keep_going) else 0)


def _fuzz(name: str, inputs: Iterable[bytes], findings: Path, keep_going: bool) -> int:
    """Run each input; give how many different findings there were."""
    from tests.fuzz.targets import TARGETS

    seen: set[str] = set()
    findings.mkdir(exist_ok=True)
    warm_up = len(TARGETS[name].corpus())
    for number, data in enumerate(inputs):
        kept = findings / f"{name}-{number}"
        kept.write_bytes(data)  # before it runs: a crash or the time limit ends the process
        faulthandler.dump_traceback_later(WALL_SECONDS, exit=True)
        finding = _judge(TARGETS[name], data, first=number < warm_up)
        faulthandler.cancel_dump_traceback_later()
        if not finding or finding in seen:
            kept.unlink()
            continue
        seen.add(finding)
        print(f"finding {kept}: {finding}", file=sys.stderr, flush=True)
        if not keep_going:
            break
    return len(seen)


def _judge(target: Target, data: bytes, first: bool) -> str:
    """What is wrong with how one input was taken; "" where nothing is. The first ones pay for what is made once."""
    started = time.process_time()
    try:
        used = (_traced if target.traced else _grown)(lambda: target.run(data))
    except Exception as error:
        places = [f"{part.filename}:{part.lineno}" for part in traceback.extract_tb(error.__traceback__)]
        ours = [place for place in places if "site-packages" not in place and "/fuzz/" not in place]
        return f"{type(error).__name__} at {(ours or places)[-1]}"
    if not first and used > 2 * len(data) + ALLOWANCE:
        return f"{used >> 20} MiB of memory"
    seconds = time.process_time() - started
    return "" if first or seconds < SECONDS else f"{seconds:.0f} s of processor time"


def _traced(run: Callable[[], None]) -> int:
    """The most bytes that Python held at once while it ran."""
    tracemalloc.start()
    try:
        _run(run)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _grown(run: Callable[[], None]) -> int:
    """By how many bytes the peak of the whole process grew."""
    before = _peak()
    _run(run)
    return _peak() - before


def _run(run: Callable[[], None]) -> None:
    from tests.fuzz.targets import ALLOWED

    with contextlib.suppress(*ALLOWED):
        run()


def _peak() -> int:
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _fuzz_with_atheris(name: str, seconds: int, seed: int, findings: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["poprt", "poprt_cli", "poprt_format", "passes"]):
        from tests.fuzz.mutate import mutations
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    findings.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(target.corpus()):
            Path(folder, f"{number}").write_bytes(data)
        options = [
            *(f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-seed={seed or int(time.time())}"),
            *(f"-artifact_prefix={findings}/{name}-", "-rss_limit_mb=2048", "-max_len=131072", "-print_final_stats=1"),
        ]

        def mutate(data: bytes, most_bytes: int, number: int) -> bytes:
            """Half by the coverage that atheris sees, half by what we know of the formats."""
            if number % 2:
                return bytes(atheris.Mutate(data, most_bytes))
            return next(mutations([bytes(data)], number))[:most_bytes]

        def run(data: bytes) -> None:
            try:
                _run(lambda: target.run(data))
            except Exception:  # libFuzzer's alarm may end the process before it has written the input
                (findings / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
                raise

        atheris.Setup(
            [sys.argv[0], *options, folder],
            run,
            custom_mutator=mutate,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
