"""Options to ordered passes to converted model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import onnx

from passes import PassManager, PassRecord, get_pass
from passes.base import Pass
from passes.check.external import check_loaded
from passes.check.sparse import densify
from passes.check.structure import check_structure
from passes.extents import declare_ranks
from passes.node_protos import opset_of
from passes.packed_model import PackedModel
from passes.parted import PartedModel
from passes.precision.float_to_int8 import FloatToInt8
from passes.precision.int8_observation import SampleData
from passes.precision.shared_scales import shared_scales
from passes.reference_session import CUSTOM_LIBRARIES
from passes.refusal import MOST_NAMED
from poprt.conversion_steps import LEAST_OPSET, ordered_passes, own_operators, with_data
from poprt.convert_options import (
    ConvertKeywords,
    not_default,
    read_options,
)
from poprt.engine.custom_ops import custom_ops
from poprt.executable import Executable
from poprt.fusion import MFConverter as MFConverter  # scripts look for it here
from poprt.isolation import Compile, IsolationTrial, try_isolation
from poprt.load_check import check_loads
from poprt.progress import pass_progress
from poprt.sample_data import InputInfo, model_inputs
from poprt.sharder import Sharder as Sharder  # scripts look for it here
from poprt.verify import Verification, verify
from poprt.verify_served import compile_quietly


class Converter(ConvertKeywords):
    """Rewrites a model by the options given; every keyword has a default, and None and "" mean the default.

    Args:
        input_shape: input name -> extents; fixes variable dimensions. An unknown name is a warning.
        convert_version: opset to raise the model to; a model is never lowered.
        precision: "fp32", "fp16" or "int8": products by constant matrices and embedding tables in int8, the rest in
            fp32 (pass ``float_to_int8``, which measures on random data what each product costs, and balances channels;
            one of your own in ``used_passes``, with other options or data, takes its place).
        checkpoints, remove_outputs: tensors to add as outputs; outputs to drop (list or comma-separated).
        fp16_skip_op_types: operator types that stay in fp32.
        skip_passes, used_passes: default passes to leave out; passes to add after the default ones, in order. Only
            ``insert_attention_mask`` runs earlier, instead of ``packed_transformer``: it works on open axes.
        check: compare the numbers of both models afterwards, the converted one as it is written and compiled, as it is
            served; see ``verification``. With ``requantize`` the original's activations are left in float32 for it:
            their old scales would be no measure for new ones.
        requantize: give products that are quantised as they run, with one scale for the whole tensor, a scale a token,
            so that an answer does not depend on its company. Their integer weights stay.
        pack_shared_scales: pack such a model with the scales that it has. Otherwise packing refuses it.
        skip_isolation_check: do not try, on the compiled model, whether samples of one run leave each other's answers
            alone. Every conversion with packing does; see ``isolation``.
        skip_check_load: do not open onnxruntime on the converted model to see that it loads it; see ``load_check``.
        custom_ops: libraries of operators that onnxruntime lacks (paths, or "onnxruntime_extensions"), registered
            with every session that is opened for this conversion.
        dump_passes: a folder for the model after each pass that changed it, numbered, without its large weights.
        pack_args: pack samples of many lengths (pass ``packed_transformer``; with ``insert_attention_mask`` among
            the ``used_passes``, within rows and with one final Unpack).
        max_tensor_size: largest constant in bytes that folding may create; -1 is no limit.
        infer_shape_ahead: fix and infer shapes before folding constants.
        enable_avoid_overflow_patterns: with fp16, also keep sums, exponentials, squares and attention scores in fp32.
            Nodes whose weights fp16 cannot hold stay fp32 anyway.
        batch_size, batch_axis: set that axis of every input.
        disable_progress_bar: show no progress, also on a terminal.
        logger: where messages go; default is the logger "poprt".

    The other keywords ask for single rewrites, or steer an IPU and are announced as having no effect. The table of all
    keywords, with their types and defaults, is :class:`poprt.convert_options.ConvertKeywords`.

    Attributes:
        records: what each pass of the last :meth:`convert` did.
        verification: the numeric comparison of the last :meth:`convert`; None without ``check``.
        shared_scales: the nodes of the converted model whose scale spans the samples of a run, by operator and name.
        isolation: what was tried with samples that share a run; None for a model that is not packed.
        sample_inputs: which values the sample data of the last :meth:`convert` holds, an entry an input of the model;
            empty where none was made.

    Raises:
        RewriteError: a value is wrong, or asks for something that this version lacks.
    """

    def __post_init__(self, logger: logging.Logger | None) -> None:
        self.logger = logger or logging.getLogger("poprt")
        self.options = read_options(self, self.logger)
        self.records: list[PassRecord] = []
        self.verification: Verification | None = None
        self.shared_scales: tuple[str, ...] = ()
        self.isolation: IsolationTrial | None = None
        self.sample_inputs: tuple[InputInfo, ...] = ()

    def convert(self, model: onnx.ModelProto, *, compile_model: Compile | None = None) -> onnx.ModelProto:
        """Return the converted model. The given one is left as it is.

        Args:
            model: what to convert.
            compile_model: as for :meth:`convert_in_place`.

        Raises:
            RewriteError: the model is not valid, or the model or an option makes a pass impossible; the message names
                the pass. An exception in a pass of the caller's own is its cause.
            PoprtError: onnxruntime does not load the converted model, or ``check`` cannot run one of the models.
        """
        work = onnx.ModelProto()
        work.CopyFrom(model)
        with self._custom_ops():
            if not self.options.check:
                self.verification = None
                return self._convert(work, compile_model)
            executables: list[Executable] = []

            def compile_and_keep(parted: PartedModel) -> Executable:
                executables.append((compile_model or compile_quietly)(parted))
                return executables[-1]

            converted = self._convert(work, compile_and_keep)
            if self.isolation is not None and self.isolation.fell_back:
                executables.clear()  # it says that more samples may share a run than now do
            executable = executables[-1] if executables else None
            reference = self._reference(model)
            self.verification = verify(reference, converted, self.options.compared_as, executable=executable)
        return converted

    def convert_in_place(
        self,
        model: onnx.ModelProto,
        *,
        compile_model: Compile | None = None,
        sample_data: SampleData | None = None,
    ) -> onnx.ModelProto:
        """Return the converted model without a copy of the given one, which is of no use afterwards.

        A caller that keeps no reference to it saves memory. ``check`` compares nothing: there is no original left.

        Args:
            model: what to convert.
            compile_model: compiles the model that :attr:`isolation` is tried on, which it is given with the weights
                beside it; the caller may keep the result.
            sample_data: what the model will meet, for int8 to be measured on instead of random data; in the form that
                ``float_to_int8`` takes.

        Raises:
            RewriteError: as for :meth:`convert`.
        """
        models = [model]  # so that nothing here keeps alive what is converted in place
        del model
        with self._custom_ops():
            return self._convert(models.pop(), compile_model, sample_data)

    @contextmanager
    def _custom_ops(self) -> Iterator[None]:
        """The libraries of ``custom_ops`` in force, for passes as well."""
        with custom_ops(self.options.custom_ops) as libraries:
            token = CUSTOM_LIBRARIES.set(libraries)
            try:
                yield
            finally:
                CUSTOM_LIBRARIES.reset(token)

    def _convert(
        self, model: onnx.ModelProto, compile_model: Compile | None, sample_data: SampleData | None = None
    ) -> onnx.ModelProto:
        check_structure(model)
        check_loaded(model)
        densify(model)
        declare_ranks(model, self.options.input_shape)
        steps = ordered_passes(self.options, model, self.logger)
        quantisers = [step for step in steps if isinstance(step, FloatToInt8)]
        sampled = self.options.packs or self.options.check or quantisers
        inputs = model_inputs(model) if sampled else []  # now: the passes may consume the model
        self.sample_inputs = tuple(inputs)
        steps = [with_data(step, inputs, sample_data) for step in steps]
        with pass_progress(len(steps), disabled=self.options.disable_progress_bar) as on_pass:
            manager = PassManager(steps, on_pass=on_pass, dump_dir=self.options.dump_passes or None)
            try:
                converted = manager.run_parted(model)
            finally:
                self.records = manager.records
        del model, steps  # the trial needs room for the weights
        self.shared_scales = shared_scales(converted.model)
        self._sign(converted.model)
        if not self.options.skip_check_load:
            check_loads(converted)
        self.isolation = self._tried(converted, inputs, compile_model)
        self._announce_shared_scales()
        return converted.whole()

    def _reference(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """What the numbers are compared with: ``model``, or what its integer weights and the IPU's operators stand for.

        Where activations are quantised anew, the old quantisation is no measure: its scales span a whole batch.
        """
        bodies: list[Pass] = [get_pass("attach_bodies", known_only=True)] if own_operators(model) else []
        if not self.options.requantize and not bodies:
            return model
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        if not self.options.requantize:
            return PassManager(bodies).run(copy)
        steps: list[Pass] = [*bodies, get_pass("extract_constant_to_initializer")]
        if opset_of(model) < LEAST_OPSET:
            steps.append(get_pass("convert_opset", target=LEAST_OPSET))
        return PassManager([*steps, get_pass("lift_dynamic_int8")]).run(copy)

    def _tried(
        self, model: PartedModel, inputs: list[InputInfo], compile_model: Compile | None
    ) -> IsolationTrial | None:
        """The trial at the end of a conversion with packing. It may change what the model says of its neighbours."""
        packed = PackedModel.read(model.model) if self.options.packs else None
        if packed is None:
            return None
        if self.shared_scales:
            return IsolationTrial(packed.neighbours, not_tried="the samples of a run share scales")
        if self.options.skip_isolation_check:
            return IsolationTrial(packed.neighbours, not_tried="left out by skip_isolation_check")
        return try_isolation(model, packed, inputs, compile_model=compile_model, logger=self.logger)

    def _announce_shared_scales(self) -> None:
        """Warn where an answer depends on its company by what the model itself does."""
        if self.shared_scales:
            more = len(self.shared_scales) - MOST_NAMED
            self.logger.warning(
                "%d nodes quantise with one scale for all samples of a run, so an answer moves with its company (by a "
                "tenth of its range and more was seen): %s. %s",
                len(self.shared_scales),
                ", ".join(self.shared_scales[:MOST_NAMED]) + (f" and {more} more" if more > 0 else ""),
                "They are none that requantize can change"
                if self.options.requantize
                else "--requantize gives each token a scale of its own",
            )

    def _sign(self, model: onnx.ModelProto) -> None:
        """Record in the model which version made it, by which passes and options."""
        properties = {prop.key: prop.value for prop in model.metadata_props}
        properties["poprt.version"] = version("poprt")
        properties["poprt.passes"] = json.dumps([record.name for record in self.records])
        properties["poprt.options"] = json.dumps(not_default(self), default=str, sort_keys=True)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, properties)
