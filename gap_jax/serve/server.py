"""Serves an application to browsers over HTTP with limits on bytes, time and connections.

A connection carries one request, so no byte after it is read as another one. Host and Origin are
checked: a foreign page neither reaches the server by a name of its own that it points here (DNS
rebinding) nor sends a form. An application answers exact paths; this module opens no file.
"""

import contextlib
import dataclasses
import errno
import http.server
import io
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from data_pipelines.core.errors import ConfigError, InUse
from gap_jax.serve.host_names import HostNames, resolve

VERSIONS = ("HTTP/1.0", "HTTP/1.1")
ONCE = ("Host", "Origin", "Content-Length")  # headers that decide whether and how to read on
UPLOAD_PATH = "/answers"
DRAIN_S, DRAIN_CHUNK = 1.0, 65536
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the server; a request beyond one is refused."""

    upload_bytes: int = 64 * 2**20
    uploads: int = 4  # read or answered at a time
    connections: int = 32
    header_s: float = 10.0  # from the connection to the last header
    upload_s: float = 60.0  # from there to the last byte of the upload
    send_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class Response:
    """A status with the body and its media type."""

    body: bytes
    media_type: str
    status: HTTPStatus = HTTPStatus.OK


class Rejected(Exception):
    """A request that is answered with a status and a text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


Application = Callable[[str, str, bytes], Response]  # of the method, the path and the upload


class Server(http.server.ThreadingHTTPServer):
    """Listens on an address of this machine; port 0 takes a free one."""

    daemon_threads = True  # a slow client does not delay the end
    allow_reuse_port = False

    def __init__(self, host: str, port: int, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.uploads = threading.BoundedSemaphore(self.limits.uploads)
        self._connections = threading.BoundedSemaphore(self.limits.connections)
        self.address_family, address = resolve(host, port)
        try:
            super().__init__(address, Handler)
        except OSError as error:
            kind = InUse if error.errno == errno.EADDRINUSE else ConfigError
            raise kind(
                f"cannot listen on --host={host} --port={port}: {error.strerror}; name another, or "
                "leave both out"
            ) from error
        self.names = HostNames(host, self.server_name, self.server_port)

    def serve(self, application: Application) -> None:
        """Answers requests with an application until the main thread is interrupted."""
        self.application = application
        self.serve_forever()

    def server_bind(self) -> None:
        """Binds the socket; the base class would look up this host's name in the network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for a connection, or refuses one too many."""
        if not self._connections.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handles the request of a connection, then counts it as ended."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints the traceback of a bug; a client that went away is none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads one request, checks it and sends the response of the application."""

    server: Server
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # a request line without version gets headers too
    server_version = "gap_jax"

    def version_string(self) -> str:
        """Names the program, and not the version of Python."""
        return self.server_version

    def setup(self) -> None:
        """Opens the connection's streams, the reading one with a deadline."""
        super().setup()
        self.reader = TimedReader(self.connection, self.server.limits.header_s)
        self.rfile = io.BufferedReader(self.reader)

    def do_GET(self) -> None:
        """Sends what the application has at a path."""
        self._answer(lambda: self.server.application("GET", self.path, b""))

    def do_POST(self) -> None:
        """Reads an upload within the limits, and sends the application's response to it."""
        self._answer(self._take_upload)

    def _answer(self, respond: Callable[[], Response]) -> None:
        try:
            self._check()
            response = respond()
        except Rejected as rejected:
            self.send_error(rejected.status, rejected.text)
        except TimeoutError:
            self.send_error(HTTPStatus.REQUEST_TIMEOUT, "the upload took too long")
        except ConnectionError:
            raise
        except Exception:
            traceback.print_exc()
            self.send_error(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "unforeseen error; please report the lines in the terminal of gap_jax serve",
            )
        else:
            self._send(response)

    def _check(self) -> None:
        """Rejects a request whose end two readers could place differently, and foreign hosts."""
        headers = self.headers
        folded = any("\n" in value or "\r" in value for value in headers.values())
        repeated = any(len(headers.get_all(name, ())) > 1 for name in ONCE)
        if headers.defects or headers.get_payload() or folded or repeated:
            raise Rejected(HTTPStatus.BAD_REQUEST, "the headers are malformed")
        if self.request_version not in VERSIONS:
            raise Rejected(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1")
        if not self.server.names.include(headers.get("Host", "")):
            raise Rejected(HTTPStatus.FORBIDDEN, f"open this page at {self.server.names.url}")

    def _take_upload(self) -> Response:
        size = self._check_upload()
        with _reserve(self.server.uploads):
            self.reader.extend(self.server.limits.upload_s)
            upload = self.rfile.read(size)
            if len(upload) < size:
                raise ConnectionAbortedError("the client closed the connection within an upload")
            return self.server.application("POST", self.path, upload)

    def _check_upload(self) -> int:
        """Returns the size of the upload, before a byte of it is read."""
        limits, headers = self.server.limits, self.headers
        if headers.get("Origin", "").lower() != f"http://{headers['Host']}".lower():
            raise Rejected(HTTPStatus.FORBIDDEN, "only this server's own page may send photographs")
        if self.path != UPLOAD_PATH:
            raise Rejected(HTTPStatus.NOT_FOUND, "nothing takes an upload here")
        if "Expect" in headers:
            raise Rejected(HTTPStatus.EXPECTATION_FAILED, "send the upload without Expect")
        length = headers.get("Content-Length", "")
        if "Transfer-Encoding" in headers or not (length.isascii() and length.isdecimal()):
            raise Rejected(HTTPStatus.LENGTH_REQUIRED, "give the upload's Content-Length")
        if len(length) > 18 or int(length) > limits.upload_bytes:
            largest = limits.upload_bytes // 2**20
            raise Rejected(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the file is larger than {largest} MB; shrink it",
            )
        return int(length)

    def handle_expect_100(self) -> bool:
        """Leaves the header to the check of the upload."""
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Sends a text, which no browser reads as HTML; then drops what is left of the request."""
        del explain
        status = HTTPStatus(code)
        text = (message or status.phrase).encode("utf-8", "backslashreplace")
        self._send(Response(text, "text/plain", status))
        if status != HTTPStatus.REQUEST_TIMEOUT:
            self._drain()

    def _send(self, response: Response) -> None:
        self.connection.settimeout(self.server.limits.send_s)
        self.send_response(response.status)
        self.send_header("Content-Type", f"{response.media_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Connection", "close")  # http.server then reads no second request
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.body)

    def _drain(self) -> None:
        """Reads on for a moment: closing with unread bytes would discard the response."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.reader.extend(DRAIN_S)
            while self.rfile.read1(DRAIN_CHUNK):
                pass

    def log_message(self, format: str, *args: object) -> None:
        """Logs no requests."""
        del format, args


class TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline, however few bytes arrive at a time."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self.extend(seconds)

    def extend(self, seconds: float) -> None:
        """Sets the deadline anew, from now."""
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer with what has arrived."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)


@contextlib.contextmanager
def _reserve(uploads: threading.BoundedSemaphore) -> Iterator[None]:
    if not uploads.acquire(blocking=False):
        raise Rejected(
            HTTPStatus.SERVICE_UNAVAILABLE, "too many photographs at once; send it again"
        )
    try:
        yield
    finally:
        uploads.release()
