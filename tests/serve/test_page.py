"""The page in a headless Chromium: a dropped photograph, its classes and maps, accessibility."""

import importlib.resources
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gap_jax.serve.application import Application
from gap_jax.serve.server import Server
from tests.support.browser import Page, find_browser, open_page
from tests.support.serving import CLASSES, serving, stand_in

pytestmark = pytest.mark.slow

AXE = "axe_playwright_python"  # the package that holds axe-core; nothing else of it is used
SIZES = ((390, 844), (1200, 850))
IDLE = "!document.querySelector('.busy, article.waiting') && document.querySelector('article')"
MANY = tuple(f"class {number}" for number in range(1000))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium is installed")
    with open_page(browser, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    models = [
        stand_in(),
        stand_in("runs/mean", MANY, note="a warning", is_constant=True, has_joints=False),
    ]
    with serving(Application(models, 2**20)) as server:
        yield server


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "<b>my photo.png"
    rows, columns = np.mgrid[:90, :120]
    pixels = np.stack([2 * columns, 2 * rows, 255 - columns - rows], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def open_fresh(page: Page, server: Server, width: int = 1200, scheme: str = "light") -> None:
    page.events.clear()
    page.show(width, 850, scheme)
    page.open(server.names.url)
    page.wait("document.querySelector('.ready')")


def text(page: Page, selector: str) -> str:
    return page.evaluate(f"document.querySelector({selector!r}).innerText")


def click(page: Page, selector: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).click()")
    page.wait(IDLE)


def test_a_dropped_photograph_is_answered(page: Page, server: Server, photo: Path) -> None:
    """And nothing but the server is asked for anything."""
    open_fresh(page, server)
    page.drop(photo)
    page.wait(IDLE)
    status = text(page, "#status")
    assert status.startswith(f"runs/mine: {CLASSES[0]}, ") and "<b>my photo.png" in status
    buttons = page.evaluate(
        "[...document.querySelectorAll('article button')].map(b => b.innerText)"
    )
    assert [each.split("\n")[0] for each in buttons[:4]] == [*CLASSES]
    assert all(each.endswith("\u00a0%") for each in buttons)
    assert page.evaluate("document.querySelectorAll('b, article img[src=x]').length") == 0
    layer = "document.querySelector('.layer')"
    assert page.evaluate(f"[{layer}.naturalWidth, {layer}.naturalHeight]") == [120, 90]
    before = page.evaluate(f"{layer}.src")
    click(page, "article li:nth-child(4) button")
    after = page.evaluate(f"{layer}.src")
    assert before.endswith("/0/0/combined") and after.endswith("/0/3/combined")
    assert text(page, "article figcaption").startswith(f"The combined map of {CLASSES[3]}: highest")
    pressed = "document.querySelector('article [aria-pressed=true] .name').innerText"
    assert page.evaluate(pressed) == CLASSES[3]
    assert "map of class 0:" in text(page, "article:nth-of-type(2) figcaption")  # has no such class
    page.wait(f"{layer}.complete && {layer}.naturalWidth")
    asked = page.requests()
    assert len(asked) > 8
    assert all(each.startswith(f"{server.names.url}/") for each in asked), asked
    assert page.complaints() == []


def test_maps_joints_and_opacity_are_chosen_by_keyboard(
    page: Page, server: Server, photo: Path
) -> None:
    open_fresh(page, server)
    page.evaluate("document.querySelector('#file').focus()")
    page.choose("#file", photo)
    page.wait(IDLE)
    page.evaluate("document.querySelector('input[value=combined]').focus()")
    for kind in ("bottom-up", "top-down", "joints"):
        page.press("ArrowRight")
        page.wait(IDLE)
        assert page.evaluate("document.querySelector('.layer').src").endswith(f"/{kind}")
    assert text(page, "figcaption") == "The joints: 16 of 16 joints found."
    assert "without joints" in text(page, "article:nth-of-type(2) figcaption")
    page.press("Tab")
    page.press("ArrowLeft")
    assert text(page, "#percent") == "69 %"
    opacity = "getComputedStyle(document.querySelector('.layer')).opacity"
    assert float(page.evaluate(opacity)) == pytest.approx(0.69)
    page.press("Tab")
    assert page.evaluate("document.activeElement.matches('article button')")
    page.press("Tab")
    page.press(" ")
    pressed = "document.querySelector('article [aria-pressed=true] .name').innerText"
    page.wait(f"{pressed} === {CLASSES[1]!r}")
    assert page.complaints() == []


def test_a_class_is_found_by_a_part_of_its_name(page: Page, server: Server, photo: Path) -> None:
    open_fresh(page, server)
    page.drop(photo)
    page.wait(IDLE)
    page.evaluate(
        "(() => { const field = document.querySelector('article:nth-of-type(2) input');"
        "field.value = 'CLASS 99'; field.dispatchEvent(new Event('input')); })()"
    )
    names = "[...document.querySelectorAll('article:nth-of-type(2) .name')].map(n => n.innerText)"
    assert page.evaluate(names) == ["class 99", *(f"class {number}" for number in range(990, 1000))]
    click(page, "article:nth-of-type(2) li:nth-child(11) button")
    assert "map of class 999:" in text(page, "article:nth-of-type(2) figcaption")


def test_the_camera_takes_a_photograph(page: Page, server: Server) -> None:
    open_fresh(page, server)
    page.evaluate("document.querySelector('#camera').click()")
    page.wait("document.querySelector('#video').videoWidth > 0")
    page.press("Enter")  # the first button of a dialog has the focus
    page.wait(IDLE)
    assert "(camera.jpg, " in text(page, "#status")
    page.wait("document.querySelector('#video').srcObject === null")
    assert page.complaints() == []


def test_what_is_no_photograph_is_refused_on_the_page(
    page: Page, server: Server, photo: Path, tmp_path: Path
) -> None:
    open_fresh(page, server)
    for name, content, error in (
        ("page.html", b"<html>", "page.html: it is no image; "),
        ("large.jpg", bytes(2**20 + 1), "large.jpg: it is larger than 1 MB; shrink it"),
    ):
        (tmp_path / name).write_bytes(content)
        for shown in ("", "<b>my photo.png"):  # the last answer keeps its name
            page.drop(tmp_path / name)
            page.wait(f"document.querySelector('#error').innerText.includes({name!r})")
            assert error in text(page, "#error") and shown in text(page, "#status")
            assert bool(shown) == bool(text(page, "#status"))
            page.drop(photo)
            page.wait(f"!document.querySelector('#error').innerText && {IDLE}")
        open_fresh(page, server)


def test_a_server_that_ended_is_said(page: Page, photo: Path) -> None:
    with serving(Application([stand_in()], 2**20)) as server:
        open_fresh(page, server)
    page.drop(photo)
    page.wait("document.querySelector('#error').innerText")
    assert "gap_jax serve does not answer; is it still running?" in text(page, "#error")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
def test_axe_finds_no_violation(
    page: Page, server: Server, photo: Path, width: int, scheme: str
) -> None:
    """Before an answer, with one, with an error, and with the camera open."""
    if importlib.util.find_spec(AXE) is None:
        pytest.skip("axe-core is not installed: pip install --no-deps axe-playwright-python")
    axe = importlib.resources.files(AXE).joinpath("axe.min.js").read_text("utf-8")
    open_fresh(page, server, width, scheme)
    page.evaluate(axe)

    def check() -> None:
        found = page.evaluate("axe.run({resultTypes: ['violations']}).then(r => r.violations)")
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") == width

    check()
    page.drop(photo)
    page.wait(IDLE)
    for kind in ("combined", "joints"):
        click(page, f"input[value={kind}]")
        check()
    page.drop(Path(__file__))
    page.wait("document.querySelector('#error').innerText")
    check()
    page.evaluate("document.querySelector('#camera').click()")
    page.wait("document.querySelector('#video').videoWidth > 0")
    check()
