"""Answers the requests of the page: its files, the models, uploads, and the maps of an answer.

Paths are compared with a fixed table; none is looked up on disk. Models compute one at a time. The
latest answers are kept under random names, so that a click on a class needs no second upload.
"""

import contextlib
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from importlib import resources
from typing import Any, NamedTuple

import cv2

from data_pipelines.core.errors import DataError
from data_pipelines.decode import decode
from data_pipelines.pictures.drawing import Picture
from gap_jax.prediction.answer import Answer
from gap_jax.serve.layers import (
    KINDS,
    Layer,
    describe_layers,
    draw_layer,
    find_missing,
    has_margins,
    shrink,
)
from gap_jax.serve.server import UPLOAD_PATH, Rejected, Response

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
MOST_KEPT, MOST_KEPT_PX = 8, 100_000_000  # answers, and the pixels of their photographs together
JPEG, PNG = (cv2.IMWRITE_JPEG_QUALITY, 90), (cv2.IMWRITE_PNG_COMPRESSION, 1)
WAIT_S = 60.0


class Model(NamedTuple):
    """A model with its texts on the page; `note` is a warning, or empty."""

    name: str
    about: str
    note: str
    predict: Callable[[Picture], Answer]


class Kept(NamedTuple):
    """A photograph with the answer of each model."""

    photo: Response
    answers: Sequence[Answer]
    pixels: int


class Application:
    """Answers requests about models; `upload_bytes` is told to the page."""

    def __init__(self, models: Sequence[Model], upload_bytes: int) -> None:
        folder = resources.files("gap_jax.serve")
        self._files = {
            path: Response(folder.joinpath(name).read_bytes(), media_type)
            for path, (name, media_type) in FILES.items()
        }
        texts = [{"name": each.name, "about": each.about, "note": each.note} for each in models]
        self._models, self._texts = models, _json(models=texts, upload_bytes=upload_bytes)
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._computing = threading.Lock()

    def __call__(self, method: str, path: str, upload: bytes) -> Response:
        """Answers one request; may be called by several threads at a time."""
        if path in self._files:
            return self._files[path]
        match method, path.split("/")[1:]:
            case "GET", ["models"]:
                return self._texts
            case "POST", _ if path == UPLOAD_PATH:
                with self._compute():
                    return self._ask(upload)
            case "GET", ["answers", token, "photo"]:
                return self._find(token).photo
            case "GET", ["answers", token, model, index]:
                with self._compute():
                    return _json(**describe_layers(*self._choose(token, model, index)))
            case "GET", ["answers", token, model, index, kind] if kind in KINDS:
                with self._compute():
                    layer = draw_layer(*self._choose(token, model, index), kind)
                return _picture(layer)
        raise Rejected(HTTPStatus.NOT_FOUND, "there is no such page")

    def close(self, seconds: float) -> None:
        """Waits for the end of a computation, and allows no further one."""
        self._computing.acquire(timeout=seconds)

    @contextlib.contextmanager
    def _compute(self) -> Iterator[None]:
        if not self._computing.acquire(timeout=WAIT_S):
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, "the models are busy; send it again")
        try:
            yield
        finally:
            self._computing.release()

    def _ask(self, upload: bytes) -> Response:
        try:
            photo = decode(upload, upright=True)
            answers = [model.predict(photo) for model in self._models]
        except DataError as error:
            raise Rejected(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
        height, width, _ = photo.shape
        kept = Kept(_picture(shrink(photo).image), answers, height * width)
        token = self._keep(kept)
        found = [_describe(each) for each in answers]
        return _json(id=token, width=width, height=height, answers=found)

    def _keep(self, kept: Kept) -> str:
        token = secrets.token_urlsafe()
        self._kept[token] = kept
        while len(self._kept) > MOST_KEPT or (
            len(self._kept) > 1 and sum(each.pixels for each in self._kept.values()) > MOST_KEPT_PX
        ):
            self._kept.popitem(last=False)
        return token

    def _find(self, token: str) -> Kept:
        kept = self._kept.get(token)
        if kept is None:
            raise Rejected(HTTPStatus.NOT_FOUND, "this answer is no longer kept; send it again")
        return kept

    def _choose(self, token: str, model: str, index: str) -> tuple[Answer, str]:
        """Returns the kept answer of a model and the name of a class, by their numbers."""
        kept = self._find(token)
        numbers = [each for each in (model, index) if each.isascii() and each.isdecimal()]
        with contextlib.suppress(ValueError, IndexError):  # too few, too long or too high
            place, number = map(int, numbers)
            answer = kept.answers[place]
            return answer, answer.classes[number]
        raise Rejected(HTTPStatus.NOT_FOUND, "there is no such model or class")


def _describe(answer: Answer) -> dict[str, Any]:
    """Lists the classes, the most probable first, and the layers that the model does not have."""
    shares = answer.probabilities
    classes = [(answer.classes[each], float(shares[each]), each) for each in answer.rank()]
    missing, is_cropped = find_missing(answer), has_margins(answer)
    return {"classes": classes, "missing": missing, "is_cropped": is_cropped}


def _json(**values: Any) -> Response:
    return Response(json.dumps(values, allow_nan=False).encode(), "application/json")


def _picture(pixels: Layer) -> Response:
    """Encodes RGB pixels as JPEG, and RGBA as PNG."""
    if pixels.shape[-1] == 3:
        _, content = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), JPEG)
        return Response(content.tobytes(), "image/jpeg")
    _, content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA), PNG)
    return Response(content.tobytes(), "image/png")
