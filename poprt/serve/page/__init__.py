"""The page at ``/``: one HTML file that asks the public routes."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter, Response

_HTML = files(__name__).joinpath("index.html").read_bytes()
_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def content_policy(html: bytes) -> str:
    """The Content-Security-Policy of a page: its own scripts and styles, and requests to its own server."""
    digests: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        digests[kind].append(f"'sha256-{digest}'")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(digests[b'script'])}",
            f"style-src {' '.join(digests[b'style'])}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


_HEADERS = {
    "Content-Security-Policy": content_policy(_HTML),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(tags=["Page"])


@router.get(
    "/",
    summary="A page to look at",
    response_class=Response,
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The page"}},
)
async def page() -> Response:
    """Each model, a box to try it, and its figures. All of that it asks for, so it is open to those without a key."""
    return Response(_HTML, media_type="text/html", headers=_HEADERS)
