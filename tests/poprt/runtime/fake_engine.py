"""A numpy stand-in for the engine, so that the runners can be tested without a model.

It works as a packed graph does: token by token on the stream, then one row a sample. ``expected`` computes the same
for one sample alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from poprt.executable import Executable, Manifest, PackingSpec, TensorSpec
from poprt.runtime.config import PackRunnerConfig

BAD_ID = 666
HIDDEN = 3
DYNAMIC = ("input_ids", "attention_mask", "position_ids")


def executable(
    *,
    layout: str = "across_rows",
    ragged: bool = True,
    rows: int = 3,
    columns: int = 8,
    max_valid_num: int = 6,
    segments: tuple[int, ...] = (8,),
    unpack: bool = True,
) -> Executable:
    """Build the executable of a packed model with one "tokens" output of each rank and one "sample" output."""
    size = sum(segments)
    inputs = [TensorSpec(name, (rows, columns), "int32", "int32") for name in DYNAMIC]
    if unpack:
        inputs.append(TensorSpec("unpack_info", (max_valid_num, len(segments)), "int32", "int32"))
    lead = (max_valid_num, size) if unpack else (rows, columns)
    kind = "tokens" if unpack else "packed"
    outputs = [
        TensorSpec("logits", lead, "float16", "float32"),
        TensorSpec("hidden", (*lead, HIDDEN), "float32", "float32"),
    ]
    kinds = {"logits": kind, "hidden": kind}
    if unpack:
        outputs.append(TensorSpec("pooled", (max_valid_num, 2), "float32", "float32"))
        kinds["pooled"] = "sample"
    packing = PackingSpec(
        layout=layout,
        rows=rows,
        columns=columns,
        max_valid_num=max_valid_num,
        segment_max_size=segments,
        unpack_info="unpack_info" if unpack else "",
        dynamic_inputs=DYNAMIC,
        mask="attention_mask",
        position_ids="position_ids",
        outputs=kinds,
        ragged=ragged,
    )
    return Executable.build(Manifest(tuple(inputs), tuple(outputs), (), packing), b"")


def token_values(ids: np.ndarray, mask: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the "logits" of tokens; one that is masked (0, or a negative number) gives its negative."""
    return np.where(mask > 0, ids + positions / 16, -ids).astype(np.float32)


def expected(
    ids: np.ndarray, mask: np.ndarray | None = None, positions: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return what one sample alone gives."""
    mask = np.ones_like(ids) if mask is None else mask
    logits = token_values(ids, mask, np.arange(len(ids)) if positions is None else positions)
    hidden = np.stack([logits * (k + 1) for k in range(HIDDEN)], axis=-1)
    return {"logits": logits, "hidden": hidden, "pooled": np.array([logits.sum(), logits.max()], np.float32)}


class FakeEngine:
    """Runs the executables above, records what it was fed, and fails or stops when told to."""

    def __init__(self, compiled: Executable) -> None:
        self.packing = compiled.packing
        self.calls: list[dict[str, np.ndarray]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.death: BaseException | None = None

    def run(self, feeds: Mapping[str, np.ndarray], output_names: Sequence[str] | None = None) -> list[np.ndarray]:
        self.calls.append({name: array.copy() for name, array in feeds.items()})
        self.entered.set()
        assert self.gate.wait(20)
        if self.death is not None:
            raise self.death
        if (feeds["input_ids"] == BAD_ID).any():
            raise ValueError(f"id {BAD_ID} is outside the vocabulary")
        outputs = self._outputs(feeds)
        return [outputs[name] for name in output_names or outputs]

    def _outputs(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        packing = self.packing
        ids = feeds["input_ids"]
        if not packing.ragged:
            assert ids.shape == (packing.rows, packing.columns)
        packed = token_values(ids, feeds["attention_mask"], feeds["position_ids"])
        if not packing.unpack_info:
            return {"logits": packed, "hidden": np.stack([packed * (k + 1) for k in range(HIDDEN)], axis=-1)}
        return self._unpacked(packed.reshape(-1), feeds["unpack_info"])

    def _unpacked(self, stream: np.ndarray, info: np.ndarray) -> dict[str, np.ndarray]:
        assert info.dtype == np.int32
        widths = info.max(axis=0) if self.packing.ragged else np.array(self.packing.segment_max_size)
        if self.packing.ragged:
            assert info.sum() == len(stream)
            assert (info.sum(axis=1) > 0).all()
        logits = np.zeros((len(info), widths.sum()), np.float32)
        at = 0
        for i, counts in enumerate(info):
            for k, count in enumerate(counts):
                column = widths[:k].sum()
                logits[i, column : column + count] = stream[at : at + count]
                at += count
        hidden = np.stack([logits * (k + 1) for k in range(HIDDEN)], axis=-1)
        pooled = np.stack([logits.sum(axis=1), logits.max(axis=1)], axis=1).astype(np.float32)
        return {"logits": logits, "hidden": hidden, "pooled": pooled}


def with_budget(config: PackRunnerConfig | None) -> PackRunnerConfig:
    """``config`` with a token budget, which the runner would else find by running the engine."""
    config = PackRunnerConfig() if config is None else config
    config.token_budget = 512 if config.token_budget is None else config.token_budget
    return config
