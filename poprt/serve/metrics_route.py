"""``GET /metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

if TYPE_CHECKING:
    from poprt.serve.app import State

_TEXTS = dict.fromkeys(("text/plain", "application/openmetrics-text"), {"schema": {"type": "string"}})

router = APIRouter(tags=["Health"])


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}, "description": "Metrics"}
    },
)
def metrics(request: Request) -> Response:
    """What `docs/serve.md` lists, in Prometheus' text format, or as OpenMetrics where `Accept` asks for it."""
    state: State = request.app.state.poprt
    body, content_type = state.metrics.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
