"""What the server of the demo answers at all: the page's own requests, within their sizes, and nothing else.

Gradio serves far more than the page uses: an API, a proxy, links, recordings, and it fetches files from addresses that
a client names. None of that is for the visitors of a demo.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/assets/.*|/static/.*|/svelte/.*"
    r"|/gradio_api/(startup-events|app_id|info|heartbeat/.*|queue/data|upload_progress|file=(?!https?:).*)",
    re.IGNORECASE,
)
_WRITE = re.compile(r"/gradio_api/(queue/join|run/predict|upload|cancel|reset)/?")
_UPLOAD = re.compile(r"/gradio_api/upload/?")
_ENVELOPE = 64 * 1024
"""Bytes of an upload that are not the file."""
_JSON = 512 * 1024
"""Largest request that is no upload, bytes."""
_NESTED = 50


class Guard:
    """ASGI middleware that refuses what the page never asks for.

    Args:
        app: the application behind it.
        max_upload: largest uploaded file in bytes.
    """

    def __init__(self, app: App, *, max_upload: int) -> None:
        self.app = app
        self.max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets: the connection is refused
        path, method = str(scope["path"]), str(scope["method"])
        pattern = _READ if method in ("GET", "HEAD") else _WRITE
        if method not in ("GET", "HEAD", "POST") or not pattern.fullmatch(path):
            await _refuse(send, 403, "not part of this demo")
        elif method != "POST":
            await self.app(scope, receive, send)
        else:
            await self._write(scope, receive, send, upload=_UPLOAD.fullmatch(path) is not None)

    async def _write(self, scope: Scope, receive: Receive, send: Send, *, upload: bool) -> None:
        length = dict(scope["headers"]).get(b"content-length", b"")
        limit = self.max_upload + _ENVELOPE if upload else _JSON
        if not length.isdigit():
            await _refuse(send, 411, "the size of a request must be given")
        elif int(length) > limit:
            await _refuse(send, 413, f"{int(length)} bytes are more than the {limit} allowed")
        elif upload:
            await self.app(scope, receive, send)
        else:
            body = await _body(receive)
            if body is None or names_address(body):
                await _refuse(send, 403, "files are uploaded, not fetched from addresses")
            else:
                await self.app(scope, _replay(body, receive), send)


def names_address(body: bytes) -> bool:
    """Whether a JSON request names a file by an address, which the server would fetch; so does one that is no JSON."""
    try:
        pending = [(json.loads(body), 0)]
    except (ValueError, RecursionError):
        return bool(body.strip())
    while pending:
        value, depth = pending.pop()
        if depth > _NESTED:
            return True
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and re.match(r"\s*https?:", path, re.IGNORECASE):
                return True
            pending += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            pending += [(item, depth + 1) for item in value]
    return False


async def _body(receive: Receive) -> bytes | None:
    """The whole body; ``None`` where the client went away."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, code: int, reason: str) -> None:
    content = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": content})
