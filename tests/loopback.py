"""A web server on this machine that can do everything wrong that servers do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file on the server, and what goes wrong with it.

    Each request takes the next of ``faults``; when there are none left, all is well:
    a number of bytes after which the connection breaks, a status, ``"stall"``, ``"trickle"`` or
    ``"page"``.
    """

    content: bytes = b""
    faults: list = field(default_factory=list)
    ranges: bool = True
    etag: bool = True
    heeds_if_range: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    redirect: str = ""
    chunked: bool = False
    page: bytes = b"<html><head><title>Sorry</title></head><body>no</body></html>"
    length: int | None = None
    """Content-Length, where it is not the truth."""


class Server:
    """What is served, and what was asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and Range of every request."""
        self.sent = 0
        self.go_on = threading.Event()

    def put(self, path: str, content: bytes = b"", **about) -> str:
        """Serve a file; returns its address."""
        self.files[path] = Served(content, **about)
        return f"{self.address}/{path}"

    def ranges(self, path: str) -> list[str]:
        """The Range headers of the GET requests for a path."""
        return [r for method, asked, r in self.requests if method == "GET" and asked == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        state = self.server_state
        path = self.path.partition("?")[0].lstrip("/")
        asked = self.headers.get("Range", "")
        state.requests.append((self.command, path, asked))
        served = state.files.get(path)
        if served is None:
            return self._plain(404, b"nothing here")
        fault = served.faults.pop(0) if served.faults and body else None
        if served.redirect:
            self.send_response(302)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault == "page":
            self._plain(200, served.page, "text/html; charset=utf-8")
        elif isinstance(fault, tuple):
            self._plain(fault[0], b"")
        else:
            self._file(served, asked, fault, body)

    def _plain(self, status: int, content: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _file(self, served: Served, asked: str, fault: object, body: bool) -> None:
        content = served.content
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        first = 0
        same = self.headers.get("If-Range", etag) == etag or not served.heeds_if_range
        if asked and served.ranges and same:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(content):
                return self._plain(416, b"")
            self.send_response(206)
            span = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", span)
        else:
            self.send_response(200)
        if served.etag:
            self.send_header("ETag", etag)
        for name, value in served.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/octet-stream")
        rest = content[first:]
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            rest = b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest)
        else:
            length = len(rest) if served.length is None else served.length
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if body:
            self._body(rest, fault)

    def _body(self, rest: bytes, fault: object) -> None:
        state = self.server_state
        if fault == "stall":
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            state.sent += len(rest) // 2
            state.go_on.wait(20)
            self.close_connection = True
        elif fault == "trickle":
            for place in range(200):
                self.wfile.write(rest[place : place + 1])
                self.wfile.flush()
                if state.go_on.wait(0.05):
                    break
            self.close_connection = True
        elif isinstance(fault, int):
            self.wfile.write(rest[:fault])
            self.wfile.flush()
            state.sent += min(fault, len(rest))
            self.close_connection = True
        else:
            self.wfile.write(rest)
            state.sent += len(rest)


@contextmanager
def serving() -> Iterator[Server]:
    """A server, for as long as the block lasts."""

    class Handler(_Handler):
        pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that hang up are what is tested

    http = Quiet(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http.server_address[1]}")
    Handler.server_state = state
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.go_on.set()
        http.shutdown()
        http.server_close()
