"""Whether a runner can feed a packed executable: each input holds tokens, pairs, a row a sample, or a value a run."""

from __future__ import annotations

from poprt.errors import CompileError
from poprt.executable import Manifest, PackingSpec, TensorSpec


def check_feedable(manifest: Manifest) -> None:
    """Refuse a packed executable with an input that no request could give.

    Raises:
        CompileError: an input is of no kind that runners know, or leaves open what a token or a sample's row is.
    """
    packing = manifest.packing
    if packing is None:
        return
    for spec in manifest.inputs:
        _check_input(spec, packing)


def _check_input(spec: TensorSpec, packing: PackingSpec) -> None:
    """An input [R, C, ...] of tokens, [max_valid_num, ...] of samples or their pairs, or of a run, of any shape."""
    if spec.name == packing.unpack_info:
        return
    if spec.name in packing.dynamic_inputs:
        _check_behind(spec, 2, "[rows, columns, ...]", "token")
    elif spec.name in packing.sample_inputs:
        _check_behind(spec, 1, "[samples, ...]", "sample")
        if not packing.unpack_info:
            raise CompileError(
                f"input {spec.name!r} holds a row a sample, and where samples share rows and nothing is unpacked no "
                "row of it has a sample; lay the samples end to end: leave out insert_attention_mask"
            )
    elif spec.name in packing.pair_inputs:
        _check_behind(spec, 1, "[samples, ...] with the longest sample on two axes", "pair of places")
        if packing.subsampled:
            raise CompileError(
                f"input {spec.name!r} has a value for each pair of places, and a front end gives the answer other "
                "places than the tokens have; compute it inside the model, or remove it"
            )
    elif spec.name in packing.run_inputs:
        if spec.any_rank:
            raise CompileError(f"{_unknown_rank(spec)}; expected the shape of its value")
    else:
        raise CompileError(
            f"no runner can feed input {spec.name!r} of shape {list(spec.shape)} to a pack; expected one "
            "with the axes [batch, sequence, ...], a row a sample, [batch, ...], or no batch axis. Make it a "
            "constant in the model, or convert the model without pack_args"
        )


def _check_behind(spec: TensorSpec, lead: int, expected: str, what: str) -> None:
    """Extents after the first ``lead`` axes must be said: values of several requests lie side by side."""
    if spec.any_rank:
        raise CompileError(f"{_unknown_rank(spec)}; expected {expected}, with fixed extents")
    if len(spec.shape) < lead or 0 in spec.shape[lead:]:
        raise CompileError(
            f"input {spec.name!r} has the shape {list(spec.shape)} (0 is open); expected {expected} with fixed extents "
            f"behind, as each {what} of a pack has the same: convert the model with --input_shape {spec.name}=..."
        )


def _unknown_rank(spec: TensorSpec) -> str:
    return f"input {spec.name!r}: the model does not say its rank, so no runner can feed it to a pack"
