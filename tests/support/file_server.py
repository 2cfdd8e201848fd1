"""A server on this machine that hands out one content, as an address begins."""

import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

ELSEWHERE = {  # where the addresses lead that a server sends on
    "/to-file/w": "file:///etc/hostname",
    "/to-http/w": "http://weights.invalid/w",
    "/to-password/w": "https://name:word@weights.invalid/w",
    "/to-itself/w": "/to-itself/w",
    "/moved/w": "/whole/w",
}


class Served(NamedTuple):
    """Where it listens, and for each request its path and range."""

    address: str
    asked: list[tuple[str, str | None]]


@contextlib.contextmanager
def serve(content: bytes) -> Iterator[Served]:
    """Serves until the block ends."""
    asked: list[tuple[str, str | None]] = []
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            del format, args

        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Range"]))
            _answer(self, content, stop)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(
    handler: http.server.BaseHTTPRequestHandler, content: bytes, stop: threading.Event
) -> None:
    manner = handler.path.split("/")[1]
    if handler.path in ELSEWHERE:
        _begin(handler, 302, {"Location": ELSEWHERE[handler.path], "Content-Length": "0"})
        return
    start = int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=")[:-1])
    rest = content[start:]
    told = {"Content-Length": str(len(rest))}
    match manner:
        case "whole" | "cut" | "reset" | "stalled" if not rest:
            _begin(handler, 416, {"Content-Range": f"bytes */{len(content)}"})
        case "whole" | "cut" | "reset" | "stalled":
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            _begin(handler, 206 if start else 200, {**told, "Content-Range": place})
            if manner == "whole":
                handler.wfile.write(rest)
                return
            handler.wfile.write(rest[: len(rest) // 2])
            if manner == "stalled":
                stop.wait(5)
            if manner == "reset":
                handler.wfile.flush()
                linger = struct.pack("ii", 1, 0)  # no farewell
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        case "unranged":
            _begin(handler, 200, {"Content-Length": str(len(content))})
            handler.wfile.write(content)
        case "elsewhere":  # a range that was not asked for
            place = f"bytes 0-{len(content) - 1}/{len(content)}"
            _begin(handler, 206, {"Content-Length": str(len(content)), "Content-Range": place})
            handler.wfile.write(content)
        case "uncounted":
            _begin(handler, 200, {})
            handler.wfile.write(content)
        case "huge":
            _begin(handler, 200, {"Content-Length": str(2**50)})
        case _:
            _begin(handler, 404, {"Content-Length": "0"})


def _begin(handler: http.server.BaseHTTPRequestHandler, code: int, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
