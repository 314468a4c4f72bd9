"""A real HTTP server that can be as unreliable as a network."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Trouble:
    """What goes wrong, and what was asked for.

    Attributes:
        refusals: for a path's end, how often it is still answered with 503.
        cuts: for a path's end, how often its content still breaks off halfway.
        spoils: for a path's end, how often it still comes with a changed byte.
        asked: requests for each path that went well.
    """

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self.spoils: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    def take(self, counter: Counter[str], path: str) -> bool:
        """Whether this request is one of those that go wrong."""
        with self.lock:
            for end, left in counter.items():
                if path.endswith(end) and left > 0:
                    counter[end] -= 1
                    return True
        return False


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args, trouble: Trouble, **kwargs) -> None:
        self.trouble = trouble
        super().__init__(*args, **kwargs)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.trouble.take(self.trouble.refusals, self.path):
            self.send_error(503)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start, stop = 0, len(content)
        if requested := self.headers.get("Range"):
            first, _, last = requested.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(stop, int(last) + 1 if last else stop)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        body = content[start:stop]
        if self.trouble.take(self.trouble.cuts, self.path):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        if self.trouble.take(self.trouble.spoils, self.path):
            body = bytes([body[0] ^ 1]) + body[1:]
        with self.trouble.lock:  # before the answer, which lets the one who asked go on
            self.trouble.asked[self.path.rpartition("/")[2]] += 1
        self.wfile.write(body)


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Trouble]]:
    """Serve a folder; gives its address and what may go wrong."""
    trouble = Trouble()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder), trouble=trouble))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", trouble
    finally:
        server.shutdown()
        server.server_close()
