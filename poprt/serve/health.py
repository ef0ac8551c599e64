"""``/health``: whether requests are answered."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from poprt.serve.bodies import json_response
from poprt.serve.calls import call_for
from poprt.serve.errors import Unavailable
from poprt.serve.routing import answer_schema, errors_schema, object_of, route_class, state_of
from poprt.serve.tei.errors import ERROR, tei_form

router = APIRouter(route_class=route_class(tei_form), tags=["Server"])


@router.get(
    "/health",
    summary="Whether requests are answered",
    responses=answer_schema(object_of({"status": {"const": "ok"}}), "Every model answers.") | errors_schema(ERROR, 503),
)
async def health(request: Request) -> Response:
    """200 where every model answers; 503 where a lane of one died, or the server is about to end."""
    call_for(request)
    state = state_of(request)
    if state.draining:
        raise Unavailable("the server is about to end")
    for model in state.models.values():
        if not model.ready:
            raise Unavailable(f"model {model.name!r} does not run any more")
    return json_response({"status": "ok"})
