"""A server of the page with drawn answers, and raw requests to it."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

from gap_jax.serve.server import Application, Limits, Server


class Reply(NamedTuple):
    """The parts of a response."""

    status: int
    headers: dict[str, str]
    body: bytes


@contextlib.contextmanager
def serving(application: Application, limits: Limits | None = None) -> Iterator[Server]:
    """Serves on a free port until the block ends."""
    with Server("127.0.0.1", 0, limits) as server:
        server.application = application
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def connect(server: Server) -> socket.socket:
    """Opens a connection; a server that hangs fails the test."""
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=10)


def read(connection: socket.socket) -> Reply | None:
    """Reads a response to its end; None for a connection that ends without one."""
    content = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            content += chunk
    if not content:
        return None
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Reply(int(first.split()[1]), headers, body)


def send(server: Server, request: bytes) -> Reply | None:
    """Sends bytes and reads the response."""
    with connect(server) as connection:
        connection.sendall(request)
        return read(connection)


def ask(server: Server, line: str = "GET / HTTP/1.1", body: bytes = b"", **headers: str) -> Reply:
    """Sends a request with the headers that a browser sends, unless others are given."""
    own = f"127.0.0.1:{server.server_port}"
    sent = {"Host": own, "Connection": "keep-alive"}
    if line.startswith("POST"):
        sent |= {"Origin": f"http://{own}", "Content-Length": str(len(body))}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = [line, *(f"{name}: {value}" for name, value in sent.items() if value != "")]
    reply = send(server, "\r\n".join([*head, "", ""]).encode("latin-1") + body)
    assert reply is not None
    return reply
