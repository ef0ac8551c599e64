"""Which engines can run an executable, and how one is opened."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence

from poprt.engine.cpu import has_bfloat16, usable_cores
from poprt.engine.lanes import Lanes
from poprt.engine.protocol import OwnSession
from poprt.engine.providers import runs_on_cpu
from poprt.engine.turns import Turns
from poprt.errors import PoprtError
from poprt.executable import Executable, Manifest
from poprt.manifest import ENGINES, ONNXRUNTIME, OPENVINO

logger = logging.getLogger("poprt")

#: Take the engine that is the fastest here.
AUTO = "auto"
#: What options named ``engine`` take.
CHOICES = (AUTO, *ENGINES)
HOW_TO_INSTALL = "pip install 'poprt[openvino]'"


def check_engine(option: str, value: object) -> str:
    """Return ``value``; raise PoprtError naming ``option`` where it names no engine."""
    if not isinstance(value, str) or value not in CHOICES:
        raise PoprtError(f"{option}: expected one of {', '.join(CHOICES)}, got {value!r}")
    return value


def is_installed(engine: str) -> bool:
    """Whether an engine is there. It is not imported."""
    return engine == ONNXRUNTIME or importlib.util.find_spec(engine) is not None


def engines_to_try(manifest: Manifest, asked: str | None, providers: Sequence[str] | None = None) -> list[str]:
    """The engines that may run an executable, the preferred one first.

    Args:
        manifest: of the executable.
        asked: one of :data:`CHOICES`; None takes what the executable was compiled for, the fastest of several.
        providers: onnxruntime's execution providers; where these are no CPU's, onnxruntime runs it.

    Raises:
        PoprtError: the engine that is asked for is not installed, or the executable has no graph for it.
    """
    there = manifest.engines
    if asked is None and len(there) == 1:
        asked = there[0]
    if asked not in (None, AUTO):
        if asked not in there:
            raise PoprtError(
                f"engine {asked!r}: this executable was compiled for {' and '.join(there)} alone; compile it with "
                f"engine='{asked}' or 'auto' (--compiler_options engine=auto)"
                + (", by name to see why 'auto' left it out" if manifest.options.get("engine") == AUTO else "")
            )
        if not is_installed(asked):
            raise PoprtError(f"engine {asked!r} is not installed: {HOW_TO_INSTALL}")
        if asked != ONNXRUNTIME and providers is not None:
            raise PoprtError(f"providers are onnxruntime's: leave them out with engine {asked!r}")
        return [asked]
    on_cpu = runs_on_cpu(providers)
    usable = [name for name in ENGINES if name in there and is_installed(name) and (on_cpu or name == ONNXRUNTIME)]
    if not usable:
        raise PoprtError(f"this executable was compiled for {' and '.join(there)}, not installed: {HOW_TO_INSTALL}")
    return usable


def open_engine(
    executable: Executable,
    engine: str,
    lanes: Lanes,
    providers: Sequence[str] | None = None,
    spin_between_runs: bool = True,
    turns: Turns | None = None,
) -> OwnSession:
    """Open an engine on its graph of an executable.

    Args:
        executable: with a graph for ``engine``.
        engine: one of ``ENGINES``, installed.
        lanes: runs that go on at the same time, and threads.
        providers, spin_between_runs, turns: onnxruntime's.

    Raises:
        ExecutableError: the engine refuses the graph.
    """
    own = executable.for_engine(engine)
    if engine == OPENVINO:
        from poprt.engine.openvino_session import OpenVinoSession

        return OpenVinoSession(own, threads=lanes.threads, streams=lanes.count)
    from poprt.engine.session import EngineSession

    return EngineSession(
        own, threads=lanes.threads, providers=providers, spin_between_runs=spin_between_runs, turns=turns
    )


def open_main_graph(executable: Executable) -> OwnSession:
    """Open the main graph of an executable by itself, on all cores, to see what it answers.

    A graph for an engine that is not installed runs in onnxruntime, which has all of its operators.
    """
    engine = executable.manifest.engine
    if is_installed(engine):
        return open_engine(executable, engine, Lanes(1, usable_cores()))
    from poprt.engine.session import EngineSession

    own = executable.for_engine(engine)
    return EngineSession(own.variant(weights_as_inputs=True))


def announce_compute_type(executable: Executable, session: OwnSession) -> None:
    """Warn where an executable that was stored in bfloat16 is not computed in it."""
    stored = any(spec.dtype == "bfloat16" for spec in executable.manifest.weights)
    if stored and session.computes_in != "bfloat16":
        logger.warning("%s", _why_no_bfloat16(executable.manifest.engine))


def _why_no_bfloat16(engine: str) -> str:
    """Why an executable of bfloat16 is computed in float32 by ``engine``, and what would help."""
    if not has_bfloat16():
        return "this CPU has no products of bfloat16: this executable of bfloat16 is computed in float32"
    advice = f"use engine='{OPENVINO}'" + ("" if is_installed(OPENVINO) else f" ({HOW_TO_INSTALL})")
    return f"{engine} has no products of bfloat16 for this CPU, and computes this executable in float32; {advice}"
