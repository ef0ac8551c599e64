"""Where an executable's time goes: the engine's own profile, by operator type."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.contenders import Array, Sample, pad, sample_length
from benchmarks.ours import OfflinePacks
from benchmarks.peer_openvino import engine_model
from benchmarks.workloads import ROWS
from poprt.engine.options import session_options
from poprt.engine.protocol import Session
from poprt.engine.providers import CPU_ONLY
from poprt.engine.session import SLOWER_ON_CPU
from poprt.errors import PoprtError
from poprt.executable import Executable


@dataclass(frozen=True)
class OpTime:
    """Time of all nodes of one operator type.

    Attributes:
        milliseconds: for the profiled requests, once.
        calls: kernel calls for them.
        share: of the time in all kernels.
    """

    op: str
    milliseconds: float
    calls: float
    share: float


@dataclass(frozen=True)
class Profile:
    """A profile, the operator that takes longest first."""

    name: str
    requests: int
    tokens: int
    ops: list[OpTime]

    @property
    def milliseconds(self) -> float:
        """Time in all kernels for the profiled requests."""
        return sum(op.milliseconds for op in self.ops)


class _ProfiledSession:
    """onnxruntime over an executable's graph as a runner opens it, with profiling on."""

    def __init__(self, executable: Executable, folder: str, threads: int | None) -> None:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        self._session = ort.InferenceSession(
            engine_model(executable),
            options,
            providers=list(CPU_ONLY),
            disabled_optimizers=list(SLOWER_ON_CPU),
        )

    def run(self, feeds: dict[str, Array], output_names: Sequence[str] | None = None) -> list[Array]:
        """Run once."""
        outputs: list[Array] = self._session.run(list(output_names or []) or None, feeds)
        return outputs

    def events(self) -> list[dict[str, object]]:
        """End profiling and return the engine's events, in their order."""
        events: list[dict[str, object]] = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return events


def profile(
    name: str, executable: Executable, samples: Sequence[Sample], runs: int = 3, threads: int | None = None
) -> Profile:
    """Run ``samples`` once to warm up and ``runs`` times to count, packed or padded as the executable has it.

    Args:
        name: of the profile.
        executable: what to run.
        samples: what it runs.
        runs: that are counted.
        threads: for one operator; None takes the usable cores.

    Raises:
        PoprtError: an input of the executable is not among the samples', or it is packed within rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = _ProfiledSession(executable, folder, threads)
        for _ in range(runs + 1):
            _run(executable, session, samples)
        events = session.events()
    return Profile(name, len(samples), sum(map(sample_length, samples)), op_times(events, runs))


def op_times(events: Sequence[dict[str, object]], runs: int) -> list[OpTime]:
    """Sum kernel times by operator type over the last ``runs`` of ``runs + 1`` equal parts."""
    kernels = [e for e in events if e.get("cat") == "Node" and str(e.get("name", "")).endswith("_kernel_time")]
    counted = kernels[len(kernels) // (runs + 1) :]
    micros: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in counted:
        arguments = event["args"]
        assert isinstance(arguments, dict)
        op = str(arguments["op_name"])
        micros[op] += int(str(event["dur"]))
        calls[op] += 1
    total = sum(micros.values()) or 1
    return [OpTime(op, took / 1e3 / runs, calls[op] / runs, took / total) for op, took in micros.most_common()]


def _run(executable: Executable, session: _ProfiledSession, samples: Sequence[Sample]) -> None:
    packing = executable.packing
    if packing is None:
        _run_padded(executable, session, samples)
    elif packing.ragged:
        as_session: Session = session  # type: ignore[assignment]
        OfflinePacks(executable, "profiled", as_session).run(samples)
    else:
        raise PoprtError("only ragged executables, packed across rows, and those that are not packed can be profiled")


def _run_padded(executable: Executable, session: _ProfiledSession, samples: Sequence[Sample]) -> None:
    specs = {spec.name: spec for spec in executable.inputs}
    unknown = [name for name in specs if name not in samples[0]]
    if unknown:
        raise PoprtError(f"input {unknown[0]!r} is not one that requests have: {', '.join(samples[0])}")
    shape = next(iter(specs.values())).shape
    rows, columns = shape[0] or ROWS, shape[1] or max(map(sample_length, samples))
    for start in range(0, len(samples), rows):
        feeds = pad(samples[start : start + rows], rows, columns)
        session.run({name: feeds[name].astype(np.dtype(spec.engine_dtype)) for name, spec in specs.items()})
