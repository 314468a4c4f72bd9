"""The served page over HTTP: what it gives away, what it takes, and that it is gone afterwards."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coprs_lightning.commands import CommandError
from coprs_lightning.demo.server import Running, check_installed, is_loopback
from tests.conftest import REPO
from tests.demo.serve import served, write_photo
from tests.talkative import talkative_model


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with served(talkative_model(), max_upload=100_000) as page:
        yield page


def request(url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    asked = urllib.request.Request(url, data=body, headers=headers)
    # no proxy: the page is on this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(asked, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(running: Running, content: bytes, name: str = "photo.png") -> tuple[int, bytes]:
    head = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--edge--\r\n"
    kind = "multipart/form-data; boundary=edge"
    return request(f"{running.url}gradio_api/upload", body, **{"Content-Type": kind})


def join(running: Running, image: Any, path: str = "queue/join") -> tuple[int, bytes]:
    """Ask as the browser does."""
    config = json.loads(request(f"{running.url}config")[1])
    (asked,) = [item for item in config["dependencies"] if len(item["inputs"]) == 2 and len(item["outputs"]) == 3]
    body = {"data": [image, "the b"], "fn_index": asked["id"], "session_hash": "x", "event_data": None}
    return request(f"{running.url}gradio_api/{path}", json.dumps(body).encode(), **{"Content-Type": "application/json"})


def ask(running: Running, image: Any) -> list[dict[str, Any]]:
    """Everything that the server says to a question."""
    status, answer = join(running, image)
    if status != 200:
        return [{"status": status, "detail": answer.decode()}]
    events = request(f"{running.url}gradio_api/queue/data?session_hash=x")[1].decode()
    return [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]


def test_an_uploaded_image_is_answered(running: Running, tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.png")
    status, answer = upload(running, (tmp_path / "photo.png").read_bytes())
    assert status == 200
    (path,) = json.loads(answer)
    events = ask(running, {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}})
    assert any("Found: score" in json.dumps(event) for event in events)
    assert events[-1]["msg"] in ("process_completed", "close_stream")


def test_nobody_gets_past_the_queue(running: Running, tmp_path: Path) -> None:
    write_photo(tmp_path / "photo.png")
    (path,) = json.loads(upload(running, (tmp_path / "photo.png").read_bytes())[1])
    image = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert join(running, image, "run/predict")[0] in (401, 404)


def test_files_of_the_server_stay_there(running: Running, tmp_path: Path) -> None:
    write_photo(tmp_path / "private.png")
    for file in (tmp_path / "private.png", REPO / "setup.cfg", Path("/etc/hostname")):
        assert request(f"{running.url}gradio_api/file={file}")[0] in (403, 404)
        for meta in ({"meta": {"_type": "gradio.FileData"}}, {}):
            said = json.dumps(ask(running, {"path": str(file), **meta}))
            assert "Found" not in said
            assert "data:image" not in said


def test_addresses_are_not_fetched(running: Running) -> None:
    """A server that would fetch is listened for: nobody may come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        for meta in ({"meta": {"_type": "gradio.FileData"}}, {}):
            (said,) = ask(running, {"path": address, **meta})
            assert said["status"] == 403
            assert join(running, {"path": address, **meta}, "run/predict")[0] == 403
        assert request(f"{running.url}gradio_api/file={address}")[0] == 403
        assert request(f"{running.url}gradio_api/proxy={address}")[0] == 403
        with pytest.raises(TimeoutError):
            listener.accept()


def test_large_uploads_are_refused(running: Running) -> None:
    assert upload(running, b"x" * 100_100)[0] == 413
    connection = http.client.HTTPConnection(running.url.split("/")[2], timeout=20)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    assert connection.getresponse().status == 413  # before anything was sent
    connection.close()
    assert upload(running, b"x" * 99_000)[0] == 200


def test_there_is_no_api_and_nothing_from_elsewhere(running: Running) -> None:
    for path in (
        "docs",
        "openapi.json",
        "monitoring",
        "gradio_api/call/ask",
        "gradio_api/runs",
        "gradio_api/openapi.json",
    ):
        assert request(running.url + path)[0] == 403
    page = request(running.url)[1].decode()
    assert "fonts.googleapis" not in page
    config = json.loads(request(f"{running.url}config")[1])
    assert config["analytics_enabled"] is False
    assert {item["api_visibility"] for item in config["dependencies"]} == {"private"}
    assert "fonts.g" not in request(f"{running.url}theme.css")[1].decode()


def test_uploads_and_settings_are_gone_afterwards() -> None:
    before = dict(os.environ)
    with served(talkative_model()) as running:
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        assert running.url.startswith("http://127.0.0.1:")
        assert running.public_url is None
        assert running.folder.is_dir()
        assert running.folder.stat().st_mode & 0o077 == 0
    assert not running.folder.exists()
    assert dict(os.environ) == before
    with pytest.raises(OSError, match="refused"):
        request(running.url)


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(CommandError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*Name another --port"),
            served(talkative_model(), **{"port": port}),
        ):
            pass


def test_without_gradio_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(CommandError, match=r"needs Gradio, which is not installed .*coprs_lightning\[demo\]"):
        check_installed()


def test_loopback_addresses_are_known() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"))
