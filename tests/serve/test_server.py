"""The server on a real socket: limits, foreign hosts and origins, malformed requests."""

import dataclasses
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from data_pipelines.core.errors import ConfigError, InUse
from gap_jax.serve.host_names import HostNames
from gap_jax.serve.server import HEADERS, Limits, Response, Server
from tests.support.serving import ask, connect, read, send, serving

SMALL = Limits(upload_bytes=1000, uploads=1)
HASTY = dataclasses.replace(SMALL, header_s=0.4, upload_s=0.4)
FEW = dataclasses.replace(SMALL, connections=4)


def echo(method: str, path: str, upload: bytes) -> Response:
    """Answers with the request, and fails at /bug."""
    if path == "/bug":
        raise ValueError("a secret")
    return Response(f"{method} {path} {len(upload)}".encode(), "text/plain")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(echo, SMALL) as server:
        yield server


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    with serving(echo, HASTY) as server:
        yield server


def test_requests_reach_the_application_and_its_response_the_client(server: Server) -> None:
    reply = ask(server, "GET /a?b HTTP/1.1")
    assert (reply.status, reply.body) == (200, b"GET /a?b 0")
    reply = ask(server, "POST /answers HTTP/1.1", b"x" * 1000)
    assert (reply.status, reply.body) == (200, b"POST /answers 1000")
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert reply.headers.items() >= HEADERS.items()
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'self';")


@pytest.mark.parametrize("name", ["localhost", "[::1]", "LocalHost"])
def test_names_of_this_machine_are_served(server: Server, name: str) -> None:
    assert ask(server, Host=f"{name}:{server.server_port}").status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:{}", "127.0.0.1", "127.0.0.1:1", "", "127.0.0.1.evil.example:{}", "10.0.0.1:{}",
     "evil@127.0.0.1:{}", "127.0.0.1:{}, evil.example"],
)  # fmt: skip
def test_foreign_hosts_are_refused(server: Server, host: str) -> None:
    reply = ask(server, Host=host.format(server.server_port))
    assert (reply.status, reply.body) == (403, f"open this page at {server.names.url}".encode())


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1:1"])
def test_uploads_of_foreign_pages_are_refused(server: Server, origin: str) -> None:
    assert ask(server, "POST /answers HTTP/1.1", b"x", Origin=origin).status == 403


def test_a_server_in_the_network_takes_addresses_and_its_own_name_only() -> None:
    names = HostNames("::", "::", 80)
    assert names.include("192.168.1.5") and names.include("192.168.1.5:80")
    assert not names.include("evil.example") and not names.include("192.168.1.5:81")
    assert names.url == "http://127.0.0.1:80"
    named = HostNames("Laptop", "192.168.1.5", 8000)
    assert named.include("laptop:8000") and not named.include("laptop")
    assert HostNames("::1", "::1", 8000).url == "http://[::1]:8000"


@pytest.mark.parametrize(
    ("length", "status"),
    [(str(2 * 2**30), 413), ("1001", 413), ("9" * 4000, 413), ("-1", 411), ("+1", 411),
     ("1e3", 411), ("\u00b2", 411), ("", 411), ("0x10", 411)],
)  # fmt: skip
def test_uploads_are_refused_by_their_header(server: Server, length: str, status: int) -> None:
    """The response comes although no byte of the upload is sent."""
    assert ask(server, "POST /answers HTTP/1.1", Content_Length=length).status == status


def test_a_large_upload_that_is_sent_at_once_still_reads_its_refusal(server: Server) -> None:
    reply = ask(server, "POST /answers HTTP/1.1", b"x" * 3_000_000)
    assert (reply.status, reply.body) == (413, b"the file is larger than 0 MB; shrink it")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("POST /answers HTTP/1.1\r\nTransfer-Encoding: chunked\r\nORIGIN\r\n\r\n0\r\n\r\n", 411),
        ("POST /answers HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\nORIGIN\r\n"
         "\r\n0\r\n\r\n", 411),
        ("POST /answers HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\nORIGIN\r\n\r\nxx",
         400),
        ("POST /answers HTTP/1.1\r\nContent-Length: 1, 1\r\nORIGIN\r\n\r\nx", 411),
        ("POST /answers HTTP/1.1\r\nContent-Length: 1\r\nORIGIN\r\nOrigin: null\r\n\r\nx", 400),
        ("POST /answers HTTP/1.1\r\nContent-Length: 1\r\nORIGIN\r\nExpect: 100-continue\r\n\r\nx",
         417),
        ("POST /elsewhere HTTP/1.1\r\nContent-Length: 1\r\nORIGIN\r\n\r\nx", 404),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length : 1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nX: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n" + "X: y\r\n" * 200 + "\r\n", 431),
        ("GET /" + "a" * 70000 + " HTTP/1.1\r\n\r\n", 414),
        ("GET / HTTP/1.7\r\n\r\n", 505),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        ("GET / HTTP/1.1 x\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\n", 505),
        ("DELETE / HTTP/1.1\r\n\r\n", 501),
        ("TRACE / HTTP/1.1\r\n\r\n", 501),
        ("CONNECT evil.example:443 HTTP/1.1\r\n\r\n", 501),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_malformed_requests_are_refused(server: Server, request_: str, status: int) -> None:
    own = f"127.0.0.1:{server.server_port}"
    line, _, rest = request_.partition("\r\n")
    rest = rest.replace("ORIGIN", f"Origin: http://{own}")
    reply = send(server, f"{line}\r\nHost: {own}\r\n{rest}".encode("latin-1"))
    assert reply is not None and reply.status == status
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_a_connection_carries_one_request(server: Server) -> None:
    """A second request behind the first, as smuggling needs it, gets no response."""
    own = f"Host: 127.0.0.1:{server.server_port}\r\n\r\n"
    reply = send(server, f"GET /one HTTP/1.1\r\n{own}GET /two HTTP/1.1\r\n{own}".encode())
    assert reply is not None
    assert (reply.body, reply.headers["Connection"]) == (b"GET /one 0", "close")


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: x", b"GET / HT"])
def test_a_slow_client_is_cut_off(hasty: Server, start: bytes) -> None:
    """However few bytes it sends at a time, the whole request has one deadline."""
    began = time.monotonic()
    with connect(hasty.server_port) as connection:
        connection.sendall(start)
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(b"a")
                time.sleep(0.05)
                assert time.monotonic() - began < HASTY.header_s + 30


def test_a_slow_upload_is_cut_off_with_a_reason(hasty: Server) -> None:
    own = f"127.0.0.1:{hasty.server_port}"
    head = f"POST /answers HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\nContent-Length: 9"
    reply = send(hasty, f"{head}\r\n\r\nabc".encode())
    assert reply is not None and (reply.status, reply.body) == (408, b"the upload took too long")
    with connect(hasty.server_port) as connection:  # its place is free again
        connection.sendall(f"{head}\r\n\r\n123456789".encode())
        reply = read(connection)
    assert reply is not None and reply.status in (200, 408)


def test_an_upload_that_ends_early_frees_its_place(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    own = f"127.0.0.1:{server.server_port}"
    head = f"POST /answers HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\nContent-Length: 9"
    with connect(server.server_port) as connection:
        connection.sendall(f"{head}\r\n\r\nabc".encode())
        connection.shutdown(socket.SHUT_WR)
        assert read(connection) is None
    assert ask(server, "POST /answers HTTP/1.1", b"x").status == 200
    assert capfd.readouterr().err == ""


def test_uploads_and_connections_are_bounded() -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait(method: str, path: str, upload: bytes) -> Response:
        entered.set()
        assert leave.wait(10)
        return echo(method, path, upload)

    with serving(wait, FEW) as server:
        replies = []
        first = threading.Thread(
            target=lambda: replies.append(ask(server, "POST /answers HTTP/1.1", b"x"))
        )
        first.start()
        assert entered.wait(10)
        refused = ask(server, "POST /answers HTTP/1.1", b"y")
        assert (refused.status, refused.body[:9]) == (503, b"too many ")
        idle = [connect(server.server_port) for _ in range(FEW.connections - 1)]
        reply = send(server, b"")
        assert reply is not None and reply.status == 503
        leave.set()
        first.join(10)
        assert [each.status for each in replies] == [200]
        for each in idle:
            each.close()
        end = time.monotonic() + 10
        while ask(server).status == 503:
            assert time.monotonic() < end


def test_a_bug_is_one_line_for_the_client_and_a_traceback_in_the_terminal(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    reply = ask(server, "GET /bug HTTP/1.1")
    assert (reply.status, reply.body.count(b"\n")) == (500, 0)
    assert b"secret" not in reply.body
    assert re.search(r"ValueError: a secret$", capfd.readouterr().err.strip())


def test_addresses_that_cannot_be_listened_on_are_refused(server: Server) -> None:
    taken = server.server_port
    with pytest.raises(InUse, match=f"cannot listen on --host=127.0.0.1 --port={taken}: "):
        Server("127.0.0.1", taken)
    with pytest.raises(ConfigError, match=r"cannot listen on --host=192\.0\.2\.1 --port=0: "):
        Server("192.0.2.1", 0)
    with pytest.raises(ConfigError, match=r"--host=no\.such\.invalid has no address"):
        Server("no.such.invalid", 0)
