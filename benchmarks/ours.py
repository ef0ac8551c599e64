"""poprt's own contenders: the pack runner, and packs laid offline."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.contenders import Packed, Result, Sample, sample_length
from poprt import runtime
from poprt.engine.protocol import Session
from poprt.executable import Executable
from poprt.manifest import ONNXRUNTIME
from poprt.runtime.across_rows_session import AcrossRowsSession
from poprt.runtime.opening import Opening, open_executable

OFFLINE_TOKENS = 512  # of an offline pack, at most


def runner_contender(
    executable: Executable,
    engine: str | None = None,
    name: str = "poprt: pack runner",
    typical_lengths: Sequence[int] = (),
) -> Packed:
    """The pack runner, fed in order of arrival.

    Args:
        executable: packed.
        engine, typical_lengths: as in its configuration.
        name: of the contender; the engine that runs is added where it is not onnxruntime.
    """
    config = runtime.PackRunnerConfig(
        timeout_microseconds=2000, queue_limit=1 << 16, engine=engine, typical_lengths=typical_lengths
    )
    runner = runtime.PackRunner(executable, config)
    ran = runner.executable.manifest.engine
    return Packed(f"{name}{'' if ran == ONNXRUNTIME else f' ({ran})'}, order of arrival", runner)


class OfflinePacks:
    """All samples sorted by length, laid in packs by ``pack_data``, and run straight on a session.

    Args:
        executable: packed across rows.
        name: of the contender.
        session: runs the executable's graph, one pack at a time; None opens one, and packs run side by side as the
            pack runner's do.
        engine: what is opened.
    """

    def __init__(
        self,
        executable: Executable,
        name: str = "poprt: packs laid offline, sorted",
        session: Session | None = None,
        engine: str = ONNXRUNTIME,
    ) -> None:
        self.name = name
        packing = executable.packing
        assert packing is not None, "the executable is not packed"
        assert packing.neighbours == "any", "samples of different lengths may not share a run"
        self._packing = packing
        self._outputs = list(packing.outputs)
        #: Packs that run at the same time.
        self.lanes = 1
        if session is None:
            opened = open_executable(executable, Opening(engine))
            session, self.lanes = opened.session, opened.lanes.count
        self._across_rows = AcrossRowsSession(session, executable.manifest, packing)
        self._seconds = 0.0

    def run(self, samples: Sequence[Sample]) -> list[Result]:
        """Run all samples and return the result of each, in their order."""
        order = sorted(range(len(samples)), key=lambda i: sample_length(samples[i]))
        ordered = [samples[i] for i in order]
        results: list[Result] = [{} for _ in samples]
        tokens = min(OFFLINE_TOKENS, math.ceil(sum(map(sample_length, samples)) / self.lanes))
        running = []
        done = 0
        with ThreadPoolExecutor(self.lanes) as pool:
            while done < len(ordered):
                pack = self._pack(ordered, done, tokens)
                running.append(pool.submit(self._run_pack, pack, order[done : pack.count], results))
                done = pack.count
        self._seconds += sum(each.result() for each in running)
        return results

    def _pack(self, ordered: Sequence[Sample], start: int, tokens: int) -> runtime.PackedData:
        """The next pack, of about ``tokens`` tokens."""
        packing = self._packing
        rows = max(1, round(tokens / packing.columns))
        return runtime.pack_data(ordered, start, rows, packing.columns, packing.max_valid_num, 1, True)

    def _run_pack(self, pack: runtime.PackedData, numbers: Sequence[int], results: list[Result]) -> float:
        """Run a pack, file the results under the samples' numbers, and return the seconds in the engine."""
        packing = self._packing
        lengths = np.array([[place.length] for place in pack.specs], np.int32)
        streams = {name: pack.data[name].reshape(-1)[: lengths.sum()] for name in packing.dynamic_inputs}
        streams[packing.mask] = np.ones_like(streams[packing.mask])
        begin = time.perf_counter()
        outputs = self._across_rows.run(streams, lengths, self._outputs)
        seconds = time.perf_counter() - begin
        for name, output in zip(self._outputs, outputs, strict=True):
            of_tokens = packing.outputs[name] == "tokens"
            values = self._across_rows.sample_tokens(output, lengths) if of_tokens else list(output)
            for number, row in zip(numbers, values, strict=False):
                results[number][name] = row
        return seconds

    def fed(self, lengths: Sequence[int]) -> int:
        """The samples' own tokens: none is added."""
        return sum(lengths)

    def engine_seconds(self) -> float | None:
        """Seconds spent in the engine's run call so far, by each lane on average."""
        return self._seconds / self.lanes
