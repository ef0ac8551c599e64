"""``GET /metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

if TYPE_CHECKING:
    from poprt.serve.metrics import Metrics

_TEXTS = {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")}

router = APIRouter(tags=["Health"])


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": _TEXTS, "description": "The metrics."}},
)
def metrics(request: Request) -> Response:
    """What `docs/serve.md` lists, in Prometheus' text format, or as OpenMetrics where `Accept` asks for it."""
    counts: Metrics = request.app.state.poprt.metrics
    body, content_type = counts.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
