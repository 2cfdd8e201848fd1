"""The addresses and names under which a browser may reach the server."""

import ipaddress
import socket
from typing import Any

from data_pipelines.core.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HTTP_PORT = 80  # is left out of Host


class HostNames:
    """The values of the Host header that name a server; `host` is as the user gave it.

    A foreign page can point a name of its own to this machine (DNS rebinding), but no address. So a
    server that listens beyond the loopback device takes every address, and no name but `host`.
    """

    def __init__(self, host: str, address: str, port: int) -> None:
        bound = ipaddress.ip_address(address.partition("%")[0])
        self.is_local = bound.is_loopback
        self._port = port
        self._host = f"[{host}]" if ":" in host else host.lower()
        self.url = f"http://{LOOPBACK[0] if bound.is_unspecified else self._host}:{port}"

    def include(self, header: str) -> bool:
        """Whether a Host header names the server."""
        header = header.lower()
        name = header.removesuffix(f":{self._port}")
        if name == header and self._port != HTTP_PORT:
            return False
        return name in (*LOOPBACK, self._host) or (not self.is_local and _is_address(name))


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Returns the family and the socket address to listen on."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host={host} has no address; use 127.0.0.1") from error
    family, _, _, _, address = found[0]
    return family, address


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
