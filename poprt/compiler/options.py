"""The compiler's options."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poprt.engine.choice import CHOICES
from poprt.errors import CompileError
from poprt.manifest import ONNXRUNTIME

logger = logging.getLogger("poprt")


@dataclass(frozen=True)
class _Option:
    """A documented option: the types it takes, and its default.

    Attributes:
        effective: False for an option that only steers an IPU.
    """

    types: tuple[type, ...]
    default: Any
    effective: bool = False


_EFFECTIVE = {
    "opaque_blobs": _Option((dict,), {}, True),
    "constant_weights": _Option((bool,), True, True),
    "enable_engine_caching": _Option((bool,), False, True),
    "cache_path": _Option((str,), "", True),
    "show_compilation_progress_bar": _Option((bool,), True, True),
    "dump_passes": _Option((str, Path), "", True),
    "custom_ops": _Option((str, Path, list, tuple), (), True),
    "engine": _Option((str,), ONNXRUNTIME, True),
}


def _ipu_options(types: tuple[type, ...], **defaults: Any) -> dict[str, _Option]:
    return {name: _Option(types, default) for name, default in defaults.items()}


_NUMBER = (int, float)

#: What scripts written for PopRT set. They concern an IPU's tiles, memory, scheduler and streams.
_IPU_ONLY = {
    **_ipu_options(
        (int,),
        num_io_tiles=0,
        num_ipus=1,
        batches_per_step=1,
        opt_level=4,
        stream_buffering_depth=1,
        swap_limit_scheduler=0,
        transitive_closure_optimization_threshold=0,
        replicated_graph_count=1,
        merge_var_update=0,
    ),
    **_ipu_options(
        _NUMBER,
        available_memory_proportion=0.6,
        outline_threshold=1.0,
        outline_sequence_break_cost=10000.0,
        time_limit_scheduler=0.0,
    ),
    **_ipu_options(
        (str, int),
        ipu_version="ipu2",
        virtual_graph_mode=0,
        partials_type="half",
        log_dir="",
        serialized_ir_dest="",
        subgraph_copying_strategy="on_enter_and_exit",
        virtual_graph_split_ratio="",
    ),
    **_ipu_options(
        (bool,),
        enable_explicit_main_loops=False,
        enable_fast_reduce=False,
        enable_gather_simplifier=False,
        enable_inplace_ambiguity_checking=False,
        create_host_transferable_tensor_with_offset=False,
        enable_efficient_overlap_io_topo_cons=False,
        enable_merge_exchange=True,
        enable_model_fusion=False,
        enable_multi_stage_reduce=True,
        enable_pad_conv_channel=False,
        enable_non_stable_softmax=False,
        enable_outlining=True,
        enable_outlining_copy_cost_pruning=True,
        enable_pipelining=False,
        enable_prefetch_datastreams=True,
        enable_replicated_graphs=False,
        enable_stochastic_rounding=False,
        enable_stream_overlap=False,
        enable_variable_update=False,
        enable_weight_streaming=False,
        group_host_sync=False,
        rearrange_anchors_on_host=True,
        rearrange_streams_on_host=False,
        serialize_ir=False,
        use_128bit_conv_unit_load=False,
        use_loop_scheduler=False,
        use_ipu_model=False,
    ),
    **_ipu_options((list, tuple, str), custom_patterns=(), core_attention_patterns=()),
    **_ipu_options((list, tuple, dict, str), virtual_graph_split_ratios=()),
    **_ipu_options((object,), compilation_progress_logger=None),
    **_ipu_options(
        (dict,),
        convolution_options={},
        custom_transform_applier_settings={},
        engine_options={},
        lstm_options={},
        matmul_options={},
        report_options={},
        target_options={},
    ),
}

#: Options that do not change the executable.
ASIDE = frozenset(
    {
        *("enable_engine_caching", "cache_path", "show_compilation_progress_bar", "dump_passes", "custom_ops"),
        "compilation_progress_logger",
    }
)

_OPTIONS: dict[str, _Option] = {**_EFFECTIVE, **_IPU_ONLY}


class CompilerOptions:
    """Options of the compiler: set them as attributes.

    These have an effect:

    Attributes:
        opaque_blobs: names and texts to keep with the executable.
        constant_weights: False makes the float weights replaceable at run time, which costs speed.
        enable_engine_caching: keep executables in ``cache_path`` and reuse them for the same model and options.
        cache_path: a folder.
        show_compilation_progress_bar: show progress where standard error is a terminal.
        dump_passes: a folder for the graph after each lowering that changed something, without its large weights. An
            executable that comes from the cache was not lowered again and writes none.
        custom_ops: libraries of operators that onnxruntime lacks: paths, or "onnxruntime_extensions". The executable
            notes what they are called, not where they are.
        engine: "onnxruntime", "openvino" or "auto": what the graph is lowered for. "auto" makes a graph for each, which
            share the weights; a runner then takes the engine that is the faster one where it runs. No engine has to be
            installed to be compiled for but onnxruntime.

    The other documented options steer an IPU. They are checked for their type, kept, and announced once, when a model
    is compiled, as having no effect here. An unknown option is kept with a warning that names the nearest known one.
    """

    opaque_blobs: dict[str, str]
    constant_weights: bool
    enable_engine_caching: bool
    cache_path: str
    show_compilation_progress_bar: bool
    dump_passes: str | Path
    custom_ops: str | Path | Sequence[str | Path]
    engine: str
    _given: dict[str, Any]
    _own: dict[str, dict[str, Any]]
    _announced: set[str]

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "_given", {})
        object.__setattr__(self, "_own", {})
        object.__setattr__(self, "_announced", set())
        for name, value in values.items():
            setattr(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CompilerOptions:
        """Options from a mapping of names to values."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The options that were set, by name."""
        return {**{name: value for name, value in self._own.items() if value}, **self._given}

    def __setattr__(self, name: str, value: Any) -> None:
        option = _OPTIONS.get(name)
        if option is None:
            near = difflib.get_close_matches(name, _OPTIONS, n=1)
            offer = f"; did you mean {near[0]!r}?" if near else ""
            logger.warning("unknown compiler option %r has no effect%s", name, offer)
        else:
            _check_type(name, value, option)
        self._given[name] = value

    def to_note(self) -> dict[str, Any]:
        """The set options that describe the executable, as JSON values."""
        kept = {name: value for name, value in self.to_dict().items() if name not in ASIDE}
        noted: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True, default=str))
        return noted

    def libraries(self) -> list[str | Path]:
        """``custom_ops`` as a list."""
        libraries = self.custom_ops
        return [libraries] if isinstance(libraries, (str, Path)) else list(libraries)

    def announce(self) -> None:
        """Say once for this object which of the set options have no effect here."""
        idle = [name for name in self.to_dict() if name in _IPU_ONLY and name not in self._announced]
        if idle:
            logger.warning("compiler options without effect on this engine (they steer an IPU): %s", ", ".join(idle))
        self._announced.update(idle)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._given:
            return self._given[name]
        if name in _OPTIONS:
            default = _OPTIONS[name].default
            # A caller may add to a dictionary that it reads: it has to be this object's own.
            return self._own.setdefault(name, dict(default)) if isinstance(default, dict) else default
        raise AttributeError(f"no compiler option {name!r}")

    def __repr__(self) -> str:
        return f"CompilerOptions({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"


def _check_type(name: str, value: Any, option: _Option) -> None:
    fits = isinstance(value, option.types) and (bool in option.types or not isinstance(value, bool))
    if not fits:
        expected = " or ".join(kind.__name__ for kind in option.types)
        raise CompileError(f"compiler option {name!r} is {value!r}; expected {expected}")
    if name == "custom_ops" and not all(isinstance(item, (str, Path)) for item in value):
        raise CompileError(f"compiler option 'custom_ops' is {value!r}; expected paths of libraries")
    if name == "engine" and value not in CHOICES:
        raise CompileError(f"compiler option 'engine' is {value!r}; expected one of {', '.join(CHOICES)}")
    if name == "opaque_blobs" and not all(isinstance(item, str) for pair in value.items() for item in pair):
        raise CompileError("compiler option 'opaque_blobs' must map texts to texts")
