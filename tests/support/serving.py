"""A server of the page with drawn answers, and raw requests to it."""

import contextlib
import functools
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.pictures.drawing import Picture
from gap_jax.models.cells import Axis, Grid
from gap_jax.prediction.answer import Answer
from gap_jax.prediction.attention import ClassMaps
from gap_jax.prediction.photograph import prepare
from gap_jax.serve.application import Model
from gap_jax.serve.server import Application, Limits, Server

SIDE_PX, CELLS = 64, 8
CLASSES = ("cycling", "reading a book", "<img src=x onerror=alert(1)>", "waving")


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


def connect(port: int) -> socket.socket:
    """Opens a connection; a server that hangs fails the test."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


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
    with connect(server.server_port) as connection:
        connection.sendall(request)
        return read(connection)


def ask(server: Server, line: str = "GET / HTTP/1.1", body: bytes = b"", **headers: str) -> Reply:
    """Sends a request with the headers that a browser sends, unless others are given."""
    return ask_port(server.server_port, line, body, **headers)


def ask_port(port: int, line: str, body: bytes = b"", **headers: str) -> Reply:
    """Sends the request of `ask` to a port."""
    sent = {"Host": f"127.0.0.1:{port}", "Connection": "keep-alive"}
    if line.startswith("POST"):
        sent |= {"Origin": f"http://127.0.0.1:{port}", "Content-Length": str(len(body))}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = [line, *(f"{name}: {value}" for name, value in sent.items() if value != "")]
    with connect(port) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)
        reply = read(connection)
    assert reply is not None
    return reply


def stand_in(
    name: str = "runs/mine",
    classes: tuple[str, ...] = CLASSES,
    *,
    note: str = "",
    has_joints: bool = True,
    is_constant: bool = False,
) -> Model:
    """A model that computes nothing: the share of red gives the first class its logit.

    Its bottom-up map is the brightness of each cell's block of the crop.
    """
    axis = Axis(CELLS, (SIDE_PX / CELLS - 1) / 2, SIDE_PX / CELLS)
    data = DataConfig(image_size_px=SIDE_PX, short_side_px=SIDE_PX)
    compute = functools.partial(_stand_in_maps, len(classes), has_joints, is_constant)

    def predict(photo: Picture) -> Answer:
        logits = np.linspace(2, 0, len(classes))
        logits[0] += 4 * photo[..., 0].mean() / 255
        prepared = prepare(photo, data)
        return Answer(
            name="photo",
            classes=classes,
            logits=logits,
            is_multi_label=False,
            crop=prepared.crop,
            placement=prepared.placement,
            grid=Grid(axis, axis),
            load=lambda: photo,
            compute=compute,
        )

    return Model(name, f"a stand-in, {len(classes)} classes", note, predict)


def _stand_in_maps(
    classes: int, has_joints: bool, is_constant: bool, crop: Picture, k: int
) -> ClassMaps:
    block = SIDE_PX // CELLS
    blocks = crop.reshape(CELLS, block, CELLS, block, 3).mean((1, 3, 4)) / 255
    bottom_up = np.ones_like(blocks) if is_constant else blocks
    slope = np.linspace(1, -1, CELLS)[:, None] * np.cos(k) + np.sin(k + np.arange(CELLS))
    pose = np.zeros((1, CELLS, CELLS, 16))
    if has_joints:
        for joint in range(16):
            pose[0, 1 + joint % 6, 1 + joint // 3, joint] = 1
    return ClassMaps(
        logits=jnp.zeros((1, classes)),
        bottom_up=jnp.asarray(bottom_up[None, ..., None], jnp.float32),
        top_down=jnp.asarray(slope[None], jnp.float32),
        combined=jnp.asarray((bottom_up * slope)[None], jnp.float32),
        pose=jnp.asarray(pose, jnp.float32) if has_joints else None,
    )
