"""The page's requests: its files, answers, maps over the photograph, and what is refused."""

import io
import json
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gap_jax.serve import application
from gap_jax.serve.application import FILES, Application
from gap_jax.serve.layers import LARGEST_SIDE_PX
from gap_jax.serve.server import Rejected, Server
from tests.support.serving import CLASSES, ask, serving, stand_in

UPLOAD_BYTES = 64 * 2**20
PICTURE = np.full((60, 90, 3), 40, np.uint8)
PICTURE[:20, :45] = (255, 0, 0)  # the bottom-up map of the stand-in is highest there


def encode(picture: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def decode(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body)))


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises the size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def get(app: Application, path: str) -> Any:
    return json.loads(app("GET", path, b"").body)


def post(app: Application, upload: bytes) -> Any:
    return json.loads(app("POST", "/answers", upload).body)


@pytest.fixture(scope="module")
def app() -> Application:
    models = [stand_in(), stand_in("runs/mean", note="x", is_constant=True, has_joints=False)]
    return Application(models, UPLOAD_BYTES)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Application([stand_in()], UPLOAD_BYTES)) as server:
        yield server


def test_an_upload_gets_the_classes_of_each_model(app: Application) -> None:
    reply = post(app, encode(PICTURE))
    assert (reply["width"], reply["height"]) == (90, 60)
    first, second = reply["answers"]
    expected = app._kept[reply["id"]].answers[0]
    assert [tuple(each[:2]) for each in first["classes"]] == expected.top(len(CLASSES))
    assert [CLASSES[index] for _, _, index in first["classes"]] == [*CLASSES]
    assert sum(share for _, share, _ in first["classes"]) == pytest.approx(1)
    assert first["missing"] == {} and list(second["missing"]) == ["bottom-up", "joints"]
    photo = decode(app("GET", f"/answers/{reply['id']}/photo", b"").body)
    assert np.abs(photo[10, 20].astype(int) - (255, 0, 0)).max() < 20
    texts = get(app, "/models")
    assert texts["upload_bytes"] == UPLOAD_BYTES
    assert [each["name"] for each in texts["models"]] == ["runs/mine", "runs/mean"]
    assert [each["note"] for each in texts["models"]] == ["", "x"]


def test_a_map_lies_over_the_seen_part_of_the_photograph(app: Application) -> None:
    reply = post(app, encode(PICTURE))
    assert reply["answers"][0]["is_cropped"]
    path = f"/answers/{reply['id']}/0/3"
    response = app("GET", f"{path}/bottom-up", b"")
    layer = decode(response.body)
    assert (response.media_type, layer.shape) == ("image/png", (60, 90, 4))
    seen = layer[..., 3] > 0  # the middle square of 60 pixels
    assert seen[:, 16:74].all() and not seen[:, :14].any() and not seen[:, 76:].any()
    red, blue = layer[8, 25].astype(int), layer[50, 60].astype(int)
    assert red[0] - red[2] > 100 > blue[0] - blue[2]
    details = get(app, path)
    assert list(details) == ["combined", "bottom-up", "top-down", "joints"]
    assert details["bottom-up"]["text"] == "highest in the upper left"
    assert float(details["bottom-up"]["one"]) == pytest.approx(1 / 3, rel=1e-3)
    assert details["joints"] == {"one": None, "text": "16 of 16 joints found"}


def test_top_down_and_combined_maps_are_of_the_class(app: Application) -> None:
    token = post(app, encode(PICTURE))["id"]
    for kind in ("top-down", "combined"):
        of_classes = [app("GET", f"/answers/{token}/0/{k}/{kind}", b"").body for k in range(4)]
        assert len(set(of_classes)) == 4
    of_classes = [app("GET", f"/answers/{token}/0/{k}/bottom-up", b"").body for k in range(4)]
    assert len(set(of_classes)) == 1


def test_the_shown_photograph_is_upright_and_bounded(app: Application) -> None:
    wide = np.zeros((20, 3 * LARGEST_SIDE_PX, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    reply = post(app, encode(wide, "JPEG", exif=exif))
    assert (reply["width"], reply["height"]) == (20, 3 * LARGEST_SIDE_PX)
    photo = decode(app("GET", f"/answers/{reply['id']}/photo", b"").body)
    layer = decode(app("GET", f"/answers/{reply['id']}/0/0/combined", b"").body)
    joints = decode(app("GET", f"/answers/{reply['id']}/0/0/joints", b"").body)
    assert photo.shape[:2] == layer.shape[:2] == joints.shape[:2] == (LARGEST_SIDE_PX, 7)


def test_joints_are_drawn_over_the_photograph(app: Application) -> None:
    token = post(app, encode(PICTURE))["id"]
    photo = decode(app("GET", f"/answers/{token}/photo", b"").body).astype(int)
    drawn = decode(app("GET", f"/answers/{token}/0/0/joints", b"").body).astype(int)
    same = decode(app("GET", f"/answers/{token}/1/0/joints", b"").body).astype(int)
    assert abs(drawn - photo).max() > 100 and abs(same - photo).max() == 0


@pytest.mark.parametrize(
    ("upload", "text"),
    [(b"", "it is empty"), (b"<html>", "it is no image"), (encode(PICTURE)[:200], "it is damaged"),
     (huge_png(100_000, 100_000), "it has 100000 x 100000 pixels, more than 50 million"),
     (huge_png(2**31 - 1, 1), "it has 2147483647 x 1 pixels")],
    ids=["empty", "html", "cut", "huge", "wide"],
)  # fmt: skip
def test_uploads_that_are_no_photographs_are_refused(
    server: Server, upload: bytes, text: str
) -> None:
    reply = ask(server, "POST /answers HTTP/1.1", upload)
    assert reply.status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert reply.body.decode().startswith(text)
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert ask(server, "POST /answers HTTP/1.1", encode(PICTURE)).status == HTTPStatus.OK


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/page.css/../server.py", "/server.py", "/%2e%2e/server.py",
     "//page.css/", "/./page.css", "/page.css%00", "/page.css?x", "/PAGE.CSS", "\\page.css",
     "/application.py", "http://evil.example/", "*", "/answers", "/answers/", "/models/",
     "/answers/x/photo", "/answers/TOKEN", "/answers/TOKEN/../photo", "/answers/TOKEN/2/0",
     "/answers/TOKEN/-1/0", "/answers/TOKEN/0/4", "/answers/TOKEN/0/\u0663",
     "/answers/TOKEN/0/" + "9" * 5000, "/answers/TOKEN/0/0/bottom_up", "/answers/TOKEN/0/0/x",
     "/answers/TOKEN/0/0/joints/"],
)  # fmt: skip
def test_only_known_paths_are_answered(app: Application, path: str) -> None:
    token = post(app, encode(PICTURE))["id"]
    with pytest.raises(Rejected) as refusal:
        app("GET", path.replace("TOKEN", token), b"")
    assert refusal.value.status == HTTPStatus.NOT_FOUND


def test_paths_outside_are_not_found_over_the_socket(server: Server) -> None:
    for path in ("/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"):
        assert ask(server, f"GET {path} HTTP/1.1").status == HTTPStatus.NOT_FOUND


def test_answers_are_kept_in_bounded_number_and_size(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [post(app, encode(PICTURE))["id"] for _ in range(application.MOST_KEPT + 1)]
    assert len(set(tokens)) == len(tokens) and min(map(len, tokens)) > 40
    with pytest.raises(Rejected, match="this answer is no longer kept"):
        app("GET", f"/answers/{tokens[0]}/photo", b"")
    assert app("GET", f"/answers/{tokens[1]}/photo", b"").body
    monkeypatch.setattr(application, "MOST_KEPT_PX", PICTURE.shape[0] * PICTURE.shape[1] - 1)
    last = post(app, encode(PICTURE))["id"]
    assert list(app._kept) == [last]


def test_models_compute_one_at_a_time_and_not_after_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, running, most = stand_in(), list[int](), list[int]()

    def predict(photo: np.ndarray) -> Any:
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return model.predict(photo)

    app = Application([model._replace(predict=predict)], UPLOAD_BYTES)
    threads = [threading.Thread(target=post, args=(app, encode(PICTURE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    app.close(10.0)
    monkeypatch.setattr(application, "WAIT_S", 0.05)
    with pytest.raises(Rejected, match="the models are busy"):
        post(app, encode(PICTURE))


def test_the_pages_files_name_nothing_elsewhere_and_hold_no_inline_code(server: Server) -> None:
    for path, (_, media_type) in FILES.items():
        reply = ask(server, f"GET {path} HTTP/1.1")
        assert reply.status == HTTPStatus.OK
        assert reply.headers["Content-Type"] == f"{media_type}; charset=utf-8"
        text = reply.body.decode().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"//[\w-]+\.\w|@import|url\(|innerHTML|\son\w+=|style=", text)
    page = ask(server, "GET / HTTP/1.1").body.decode()
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {"page.css", "page.js", "icon.svg"}
    assert "<style" not in page and re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]


def test_package_holds_the_pages_files() -> None:
    folder = Path(application.__file__).parent
    assert {name for name, _ in FILES.values()} == {
        each.name for each in folder.iterdir() if each.suffix not in (".py", "")
    }


def test_layers_of_a_photograph_of_one_pixel(app: Application) -> None:
    token = post(app, encode(PICTURE[:1, :1]))["id"]
    for kind in ("combined", "joints"):
        assert decode(app("GET", f"/answers/{token}/0/0/{kind}", b"").body).shape[:2] == (1, 1)
