"""What the page at ``/`` is told: each model, and its figures of now. Of this process, where several serve."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request, Response

from poprt.executable import Executable
from poprt.runtime import PackRunner
from poprt.runtime.observation import PackObservation
from poprt.serve.bodies import json_response
from poprt.serve.recent import Recent
from poprt.serve.routing import state_of
from poprt.version import VERSION

if TYPE_CHECKING:
    from poprt.serve.metrics import Metrics
    from poprt.serve.models import ServedModel

#: The type of a weight -> the precision that it is of, where that is not fp32.
PRECISIONS = {"float16": "fp16", "int8": "int8", "uint8": "int8"}

_KEY: dict[int | str, dict[str, Any]] = {401: {"description": "The key is missing or wrong."}}

router = APIRouter(tags=["Page"])


@dataclass(frozen=True)
class About:
    """What a model is. ``task`` is null for a model that takes tensors alone."""

    name: str
    version: str
    task: str | None
    max_length: int | None
    dimension: int | None
    labels: list[str]
    activation: str | None
    precision: str
    lanes: int
    token_budget: int | None
    pack_tokens: int | None
    pack_texts: int | None


@dataclass(frozen=True)
class Server:
    """The server and its models. ``max_client_batch`` is 0 where there is no limit."""

    version: str
    process: int
    workers: int
    max_client_batch: int
    models: list[About]


@dataclass(frozen=True)
class Pack:
    """A pack that ran: for each text its tokens, and milliseconds in the queue. ``age`` is seconds since it began."""

    number: int
    age: float
    engine_ms: float
    lane: int
    failed: bool
    tokens: list[int]
    waited_ms: list[float]


@dataclass(frozen=True)
class Figures:
    """Of one model. Counts are those since the server started; p50 and p99 are of the last minute, null without one."""

    requests: int
    packs: int
    failed_packs: int
    texts: int
    tokens: int
    padded_tokens: int
    engine_seconds: float
    queue_requests: int
    queue_tokens: int
    lanes_busy: int
    p50_ms: float | None
    p99_ms: float | None
    last_packs: list[Pack]


@dataclass(frozen=True)
class Live:
    """Figures of the process that answers. ``time`` is in seconds, from any begin."""

    time: float
    process: int
    workers: int
    scope: Literal["server", "worker"]
    models: dict[str, Figures]


@router.get("/live/models", summary="What each model is", response_model=Server, responses=dict(_KEY))
async def about_models(request: Request) -> Response:
    """Task, limits and lanes of each model, for the page at `/`."""
    state = state_of(request)
    server = Server(
        version=VERSION,
        process=os.getpid(),
        workers=state.options.workers,
        max_client_batch=state.options.max_client_batch,
        models=[about(model) for model in state.models.values()],
    )
    return json_response(server)


@router.get("/live", summary="Figures of now", response_model=Live, responses=dict(_KEY))
async def live(request: Request) -> Response:
    """Figures of each model, for the page at `/`, which asks every second.

    Where several workers serve, they are those of the one that answers (`process`); `/metrics` has the sums of all.
    """
    state, now = state_of(request), time.perf_counter()
    metrics: Metrics = request.app.state.poprt.metrics
    answer = Live(
        time=now,
        process=os.getpid(),
        workers=state.options.workers,
        scope="worker" if state.options.workers > 1 else "server",
        models={name: figures(model, metrics.recent[name], now) for name, model in state.models.items()},
    )
    return json_response(answer)


def about(model: ServedModel) -> About:
    """What a model is."""
    facts = None if model.text is None else model.text.facts
    manifest = model.executable.manifest
    packing = manifest.packing
    return About(
        name=model.name,
        version=model.version,
        task=facts.task if facts else None,
        max_length=facts.max_length if facts else None,
        dimension=(facts.dimension or None) if facts else None,
        labels=list(facts.labels) if facts else [],
        activation=facts.activation if facts else None,
        precision=precision(model.executable),
        lanes=model.runner.lanes,
        token_budget=model.runner.token_budget if isinstance(model.runner, PackRunner) else None,
        pack_tokens=packing.rows * packing.columns if packing else None,
        pack_texts=packing.max_valid_num if packing else None,
    )


def precision(executable: Executable) -> str:
    """What ``poprt pack --precision`` calls the weights: "int8" where a matrix is of it, else that of most of them."""
    sizes: Counter[str] = Counter()
    for spec in executable.manifest.weights:
        if len(spec.shape) > 1:
            sizes[PRECISIONS.get(spec.dtype, "fp32")] += math.prod(spec.shape)
    if "int8" in sizes:
        return "int8"
    return "fp16" if sizes["fp16"] > sizes["fp32"] else "fp32"


def figures(model: ServedModel, recent: Recent, now: float) -> Figures:
    """Figures of a model at ``now`` (``time.perf_counter()``)."""
    pending = model.runner.pending()
    totals = recent.totals()
    durations = recent.durations(now)
    return Figures(
        **asdict(totals),
        queue_requests=pending.requests,
        queue_tokens=pending.tokens,
        lanes_busy=model.runner.running(),
        p50_ms=_quantile_ms(durations, 0.5),
        p99_ms=_quantile_ms(durations, 0.99),
        last_packs=[_pack(number, pack, now) for number, pack in recent.packs()],
    )


def _quantile_ms(ordered: list[float], share: float) -> float | None:
    """The least value that ``share`` of all do not pass, in milliseconds."""
    if not ordered:
        return None
    return round(1e3 * ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)


def _pack(number: int, pack: PackObservation, now: float) -> Pack:
    return Pack(
        number=number,
        age=round(now - pack.started, 3),
        engine_ms=round(1e3 * pack.engine_seconds, 3),
        lane=pack.lane,
        failed=pack.error is not None,
        tokens=list(pack.lengths),
        waited_ms=[round(1e3 * seconds, 2) for seconds in pack.queue_seconds],
    )
