"""A local server of one content; the first part of the path selects how it responds."""

import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

ELSEWHERE = {  # targets of redirects
    "/to-file/w": "file:///etc/hostname",
    "/to-http/w": "http://weights.invalid/w",
    "/to-password/w": "https://name:word@weights.invalid/w",
    "/to-itself/w": "/to-itself/w",
    "/moved/w": "/whole/w",
}


class Served(NamedTuple):
    """The server's address, and the path and range of each request."""

    address: str
    requests: list[tuple[str, str | None]]


@contextlib.contextmanager
def serve(content: bytes) -> Iterator[Served]:
    """Serves until the block ends."""
    requests: list[tuple[str, str | None]] = []
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            del format, args

        def do_GET(self) -> None:
            requests.append((self.path, self.headers["Range"]))
            _answer(self, content, stop)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", requests)
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
    headers = {"Content-Length": str(len(rest))}
    match manner:
        case "whole" | "cut" | "reset" | "stalled" if not rest:
            _begin(handler, 416, {"Content-Range": f"bytes */{len(content)}"})
        case "whole" | "cut" | "reset" | "stalled":
            range_sent = f"bytes {start}-{len(content) - 1}/{len(content)}"
            _begin(handler, 206 if start else 200, {**headers, "Content-Range": range_sent})
            if manner == "whole":
                handler.wfile.write(rest)
                return
            handler.wfile.write(rest[: len(rest) // 2])
            if manner == "stalled":
                stop.wait(5)
            if manner == "reset":
                handler.wfile.flush()
                linger = struct.pack("ii", 1, 0)  # resets the connection
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        case "unranged":
            _begin(handler, 200, {"Content-Length": str(len(content))})
            handler.wfile.write(content)
        case "elsewhere":  # another range than requested
            range_sent = f"bytes 0-{len(content) - 1}/{len(content)}"
            _begin(handler, 206, {"Content-Length": str(len(content)), "Content-Range": range_sent})
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
