"""Run a list of passes over a model: import the graph once, run them all, export once."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnx_graphsurgeon as gs

from passes.base import GraphPass, Pass, PassResult
from passes.check.blame import describe, is_same_file
from passes.check.explain import why_invalid
from passes.check.external import why_not_loaded
from passes.dump import ModelDump
from passes.errors import RewriteError
from passes.graph_io import export_graph, import_graph
from passes.parted import PartedModel, export_parted
from passes.registry import get_pass

#: A pass by name, a pass, or anything that maps a model to a model.
PassLike: TypeAlias = str | Pass | Callable[[onnx.ModelProto], onnx.ModelProto]

logger = logging.getLogger("poprt")


@dataclass(frozen=True)
class PassRecord:
    """One line of the report: what a pass did, how long it took, and the node count before and after it."""

    name: str
    seconds: float
    nodes_before: int
    nodes_after: int
    result: PassResult


class _Model:
    """The model under way, as a graph or as a proto, converted only where the next pass needs the other form."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._proto: onnx.ModelProto | None = model
        self._graph: gs.Graph | None = None

    def graph(self) -> gs.Graph:
        if self._graph is None:
            assert self._proto is not None
            self._graph, self._proto = import_graph(self._proto), None
        return self._graph

    def proto(self) -> onnx.ModelProto:
        if self._proto is None:
            assert self._graph is not None
            self._proto, self._graph = export_graph(self._graph), None
        return self._proto

    def parted(self) -> PartedModel:
        return export_parted(self._graph) if self._graph is not None else PartedModel(self.proto())

    def current(self) -> gs.Graph | onnx.ModelProto:
        """The model in the form that it has now."""
        return self._graph if self._graph is not None else self.proto()

    def replace(self, proto: onnx.ModelProto) -> None:
        self._proto, self._graph = proto, None

    def node_count(self) -> int:
        return len(self._graph.nodes) if self._graph is not None else len(self.proto().graph.node)


class PassManager:
    """Runs passes in order.

    Args:
        used_passes: names, passes, or callables from ModelProto to ModelProto.
        dump_dir: a folder for the model after each pass that changed it (:class:`passes.dump.ModelDump`), or after
            each that does not say whether it did; None writes nothing.
        on_pass: called with a pass's name before it runs; drives a progress display.
        gather_ir_passes: taken from scripts: graph passes that follow each other share one graph in any case.
        weights_elsewhere: the model's large initializers are marked external and have no data, on purpose.

    An exception that no pass means to raise is put down to the user's own pass, or to the model where onnx refuses it;
    otherwise it is a bug of ours and comes out as it is.

    Raises:
        RewriteError: ``dump_dir`` cannot be written to, or a name is not registered.

    Attributes:
        records: what each pass of the last :meth:`run` did.
    """

    def __init__(
        self,
        used_passes: Iterable[PassLike] = (),
        gather_ir_passes: bool = False,
        *,
        dump_dir: str | Path | None = None,
        on_pass: Callable[[str], None] | None = None,
        weights_elsewhere: bool = False,
    ) -> None:
        self.passes: list[Any] = []
        self.add_passes(used_passes)
        self.records: list[PassRecord] = []
        self._dump = ModelDump(Path(dump_dir)) if dump_dir is not None else None
        self._on_pass = on_pass
        self._weights_elsewhere = weights_elsewhere

    def add_passes(self, used_passes: Iterable[PassLike] = (), gather_ir_passes: bool = False) -> None:
        """Add passes behind those that there are; the arguments are those of the class."""
        self.passes += [get_pass(item) if isinstance(item, str) else item for item in used_passes]

    def get_passes(self) -> list[Any]:
        """The passes, in order."""
        return list(self.passes)

    def get_all_pass_names(self) -> list[str]:
        """What they are called, in order."""
        return [_name_of(step) for step in self.passes]

    def run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the rewritten model.

        Raises:
            RewriteError: a pass found the model or its options impossible; the message names the pass.
        """
        return self._run(model).proto()

    __call__ = run

    def run_parted(self, model: onnx.ModelProto) -> PartedModel:
        """Return the rewritten model with its large weights beside it: those that passes made are not copied.

        Raises:
            RewriteError: as for :meth:`run`.
        """
        return self._run(model).parted()

    def _run(self, model: onnx.ModelProto) -> _Model:
        self.records = []
        state = _Model(model)
        for number, step in enumerate(self.passes, 1):
            name = _name_of(step)
            if self._on_pass is not None:
                self._on_pass(name)
            before, start = state.node_count(), time.perf_counter()
            try:
                result = self._run_one(step, state)
            except RewriteError as error:
                raise error.inside(f"pass {name!r}") from error
            except Exception as error:
                self._blame(step, name, model, error)
                raise
            record = PassRecord(name, time.perf_counter() - start, before, state.node_count(), result)
            self.records.append(record)
            logger.debug(
                "pass %s: %.3f s, %d -> %d nodes, %s", name, record.seconds, before, record.nodes_after, result
            )
            if self._dump is not None and (result.modified or not isinstance(step, GraphPass)):
                self._dump.write(number, name, state.current())
        return state

    def _blame(self, step: Any, name: str, model: onnx.ModelProto, error: Exception) -> None:
        """Raise a RewriteError where a user's pass or the model is at fault; else ``error`` is a bug of ours.

        Graph passes leave ``model`` as it came; what a user's pass changed in it is the user's as well.
        """
        if _is_users(step):
            logger.debug("pass %r failed", name, exc_info=error)
            raise RewriteError(f"pass {name!r} failed: {describe(error, _in_file_of(step))}") from error
        unloaded = None if self._weights_elsewhere else why_not_loaded(model)
        for fault, reason in (("has no weights", unloaded), ("is not valid", why_invalid(model))):
            if reason is not None:
                logger.debug("pass %r failed on a model that %s", name, fault, exc_info=error)
                raise RewriteError(f"pass {name!r} cannot work on this model, which {fault}: {reason}") from error
        done = ", ".join(record.name for record in self.records) or "none"
        logger.error("pass %r failed; passes already run: %s", name, done)

    @staticmethod
    def _run_one(step: Any, state: _Model) -> PassResult:
        # A script's class may override __call__ and not run: only a plain GraphPass takes the short way.
        if isinstance(step, GraphPass) and type(step).__call__ is Pass.__call__ and type(step).run is GraphPass.run:
            return step.apply(state.graph())
        rewritten = step(state.proto())
        if not isinstance(rewritten, onnx.ModelProto):
            raise RewriteError(f"returned {type(rewritten).__name__}; a pass must return the ModelProto")
        state.replace(rewritten)
        return PassResult()


def _name_of(step: Any) -> str:
    name: str = getattr(step, "name", "") or getattr(step, "__name__", type(step).__name__)
    return name


def _is_users(step: Any) -> bool:
    """Whether a pass was written outside of this project."""
    module = getattr(step, "__module__", "") or ""
    return module.partition(".")[0] not in ("passes", "poprt")


def _in_file_of(step: Any) -> Callable[[str], bool]:
    """Whether a file of a traceback is the one in which ``step`` was written."""
    source = getattr(sys.modules.get(getattr(step, "__module__", "")), "__file__", None)
    return is_same_file(Path(source)) if source else lambda _: True
