"""What the routes of an API have in common: how errors are written, and how they are documented."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from poprt.serve.bodies import Body, json_response
from poprt.serve.errors import ServeError, from_exception

if TYPE_CHECKING:
    from poprt.serve.app import State

#: Writes an error as an API does: its status and its body.
Form = Callable[[ServeError], tuple[int, Any]]
Documents = dict[int | str, dict[str, Any]]

_NULL = {"type": "null"}
#: What the document says of each status.
DESCRIPTIONS = {
    400: "The request is wrong; the message says where.",
    401: "The key is missing or wrong.",
    404: "There is no such model.",
    413: "The request is larger than it may be.",
    415: "The body is in an encoding that is not read.",
    422: "The JSON is not what the route takes; the message names the field.",
    424: "The model is for another task, or its answer is no number.",
    429: "Too many requests wait. Nothing of this one is queued; Retry-After says when to try again.",
    500: "The server or the model is at fault.",
    503: "The model does not run any more, or the server is about to end.",
    504: "The answer did not come in time.",
}


def state_of(request: Request) -> State:
    """What the requests of an application share."""
    state: State = request.app.state.poprt
    return state


def error_response(error: ServeError, form: Form) -> Response:
    """An error in the form of an API."""
    status, body = form(error)
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    return json_response(body, status, headers)


class ApiRoute(APIRoute):
    """A route whose errors are written as its API does."""

    form: Form

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler of a request, with such errors."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await self.answer(handler, request)

        return handle

    async def answer(self, handler: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
        """What a handler answers, or the error that it raises."""
        try:
            return await handler(request)
        except HTTPException:
            raise
        except Exception as error:
            return error_response(from_exception(error), type(self).form)


def route_class(form: Form) -> type[ApiRoute]:
    """The class of routes whose errors are written in this form."""
    return type("Route", (ApiRoute,), {"form": staticmethod(form)})


def errors_schema(schema: dict[str, Any], *statuses: int) -> Documents:
    """The errors of a route for the OpenAPI document."""
    content = {"application/json": {"schema": schema}}
    return {status: {"description": DESCRIPTIONS[status], "content": content} for status in statuses}


def answer_schema(schema: dict[str, Any], description: str) -> Documents:
    """The answer of a route for the OpenAPI document."""
    return {200: {"description": description, "content": {"application/json": {"schema": schema}}}}


def body_schema(*kinds: type[Body], **extra: Any) -> dict[str, Any]:
    """What a route that reads its body itself takes, for the OpenAPI document."""
    schemas = [_with_nulls(kind.model_json_schema()) for kind in kinds]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}, **extra}


def _with_nulls(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body, which takes null for what may be left out."""
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, field in part.get("properties", {}).items():
            if name not in part.get("required", ()) and _NULL not in field.get("anyOf", ()):
                part["properties"][name] = {"anyOf": [field, _NULL]}
    return schema


def array_of(items: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list."""
    return {"type": "array", "items": items}


def object_of(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """The schema of an object."""
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}
