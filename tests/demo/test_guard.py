"""The guard lets the page's own requests through and nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from coprs_lightning.demo.guard import Guard, names_address

LIMIT = 1000


def ask(path: str, method: str = "GET", body: bytes = b"", *, sized: bool = True, parts: int = 1) -> tuple[int, bytes]:
    """Status and body of a request; the application behind the guard sends the request's body back."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        received, more = b"", True
        while more:
            message = await receive()
            received, more = received + message["body"], message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": received})

    size = len(body) // parts + 1
    pending = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    sent: list[Any] = []

    async def receive() -> Any:
        part = pending.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(pending)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", str(len(body)).encode())] if sized else []
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    asyncio.run(Guard(echo, max_upload=LIMIT)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/theme.css", "/assets/index.js", "/gradio_api/queue/data", "/gradio_api/file=/tmp/x/a.png"],
)
def test_what_the_page_reads_passes(path: str) -> None:
    assert ask(path)[0] == 200
    assert ask(path, "HEAD")[0] == 200
    assert ask(path, "POST", b"{}")[0] == 403
    assert ask(path, "DELETE")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=https://example.org/a.png",
        "/gradio_api/file=HTTP://example.org/a.png",
        "/gradio_api/proxy=https://example.org",
        "/gradio_api/call/ask/1",
        "/gradio_api/runs",
        "/gradio_api/process_recording",
        "/monitoring",
        "/docs",
        "/config/x",
        "//",
    ],
)
def test_everything_else_is_refused(path: str) -> None:
    status, body = ask(path)
    assert status == 403
    assert json.loads(body) == {"detail": "not part of this demo"}
    assert ask(path, "POST", b"{}")[0] == 403


@pytest.mark.parametrize("parts", [1, 3])
def test_requests_arrive_whole(parts: int) -> None:
    body = json.dumps({"data": [{"path": "/tmp/a.png"}, "https://example.org is a question"]}).encode()
    assert ask("/gradio_api/queue/join", "POST", body, parts=parts) == (200, body)


def test_addresses_in_place_of_files_are_refused() -> None:
    body = json.dumps({"data": [{"a": [{"path": "https://example.org/a.png"}]}]}).encode()
    status, answer = ask("/gradio_api/queue/join", "POST", body)
    assert status == 403
    assert b"not fetched from addresses" in answer


@pytest.mark.parametrize("value", ["http://x", "HTTPS://x", " https://x"])
def test_addresses_are_known(value: str) -> None:
    assert names_address(json.dumps([{"path": value}]).encode())
    assert not names_address(json.dumps([{"url": value, "text": value}]).encode())


def test_what_is_no_json_is_refused() -> None:
    assert names_address(b"{")
    assert names_address(b"\xff")
    assert names_address(b"[" * 10_000 + b"]" * 10_000)
    assert names_address(json.dumps({"a": {}}).encode().replace(b"{}", b'{"a":' * 60 + b"1" + b"}" * 60))
    assert not names_address(b"")


def test_sizes_are_limited() -> None:
    assert ask("/gradio_api/upload", "POST", b"x" * LIMIT)[0] == 200
    status, body = ask("/gradio_api/upload", "POST", b"x" * (LIMIT + 2**17))
    assert status == 413
    assert b"are more than the" in body
    assert ask("/gradio_api/queue/join", "POST", b" " * 2**20)[0] == 413
    assert ask("/gradio_api/upload", "POST", b"x", sized=False)[0] == 411


def test_websockets_are_not_answered() -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("passed on")

    asyncio.run(Guard(never, max_upload=LIMIT)({"type": "websocket", "path": "/"}, never, never))
