"""Drives a headless Chromium over the pipe of its DevTools protocol, with the standard library."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
CHUNK = 1 << 16


class Page:
    """A tab; `events` holds what it reported since it was opened, by the protocol's names."""

    def __init__(self, commands: int, replies: int) -> None:
        self._commands, self._replies = commands, replies
        self._unread = b""
        self._count = 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        opened = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": opened["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Calls a method of the protocol and returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read()
            if reply.get("id") == self._count:
                assert "error" not in reply, f"{method}: {reply['error']['message']}"
                return reply["result"]
            self.events.append(reply)

    def evaluate(self, script: str) -> Any:
        """Returns the value of an expression of JavaScript, or of the promise that it returns."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, script: str, seconds: float = 60.0) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({script})"):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def open(self, url: str) -> None:
        """Opens an address and waits for the page's own script."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def show(self, width: int, height: int, scheme: str) -> None:
        """Sets the size of the window and its colours, light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.call(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )

    def drop(self, path: Path) -> None:
        """Drops a file on the middle of the window."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=200, y=300, data=data)

    def choose(self, selector: str, path: Path) -> None:
        """Chooses a file in an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key: str) -> None:
        """Presses a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "Escape": 27}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code="Space" if key == " " else key,
                text=text if kind == "keyDown" else "", windowsVirtualKeyCode=codes[key],
            )  # fmt: skip

    def photograph(self) -> bytes:
        """Returns the whole page as PNG."""
        done = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(done["data"])

    def requests(self) -> list[str]:
        """Lists the addresses that the page asked for."""
        self.evaluate("0")  # reads the events that have arrived
        sent = [each for each in self.events if each["method"] == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]

    def complaints(self) -> list[str]:
        """Lists exceptions, refused requests and other errors on the console."""
        self.evaluate("0")
        thrown = [each for each in self.events if each["method"] == "Runtime.exceptionThrown"]
        logged = [
            each["params"]["entry"]["text"]
            for each in self.events
            if each["method"] == "Log.entryAdded" and each["params"]["entry"]["level"] == "error"
        ]
        return [str(each["params"]["exceptionDetails"]) for each in thrown] + logged

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            chunk = os.read(self._replies, CHUNK)
            assert chunk, "the browser has ended"
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


def find_browser() -> str | None:
    """Returns the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def open_page(browser: str, profile: Path) -> Iterator[Page]:
    """Starts the browser with an empty profile and opens a tab."""
    (to_browser, commands), (replies, from_browser) = os.pipe(), os.pipe()
    inner = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (to_browser, from_browser)]
    for each in (to_browser, from_browser):
        os.close(each)
    flags = [*FLAGS, f"--user-data-dir={profile}"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    script = 'exec "$@" 3<&{0} 4>&{1} {0}<&- {1}>&-'.format(*inner)
    started = subprocess.Popen(
        ["bash", "-c", script, "bash", browser, *flags],
        pass_fds=inner, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for each in inner:
        os.close(each)
    try:
        yield Page(commands, replies)
    finally:
        os.close(commands)  # the browser ends with its pipe
        os.close(replies)
        started.wait(20)
