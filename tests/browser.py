"""A real headless Chromium over the DevTools protocol, through a pipe: https://chromedevtools.github.io/devtools-protocol/.

with Browser(folder) as browser:
    page = browser.open("http://127.0.0.1:8600/")
    page.fill("#text", "Hello.")
    page.click("#speak")
    page.until("audio.readyState > 0")
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.worker_process import kill_group, until

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
DONE_S = 60  # on a machine that others use as well
# Root has no sandbox in a container; no page but the studio's own is opened. The null sink is not fast: sound plays in real time.
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
]


def installed() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """Started with a profile of its own in a folder; ends with the block."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # to the browser's descriptor 3, from its 4
        command = [installed() or NAMES[0], *OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        redirected = ["bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{theirs[1]}', "bash", *command]
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                redirected, pass_fds=(ours[0], theirs[1]), env=os.environ | {"HOME": str(folder)}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from, self._ids, self._rest = ours[1], theirs[0], itertools.count(1), b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        kill_group(self._process)
        os.close(self._to)
        os.close(self._from)

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command; events that come before are kept."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._to, data) :]
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._from, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> Page:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            page.send(f"{domain}.enable")
        page.send("Page.navigate", url=url)
        page.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        return page


class Page:
    """One tab. Expressions are JavaScript; a promise is waited for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        done = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression: str, timeout_s: float = DONE_S) -> Any:
        return until(lambda: self.evaluate(expression), timeout_s, lambda: f"{expression}\n{self.text()}\n{self.errors()}")

    def text(self, selector: str = "body") -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of what is there."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{find}.scrollIntoView({{block: 'center'}})")
        box = self.evaluate(f"{find}.getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, **at)

    def fill(self, selector: str, text: str) -> None:
        """By the keyboard, in the place of what is there."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus(), document.activeElement.select()")
        if text:
            self.send("Input.insertText", text=text)
        else:
            self.press("Delete")

    def press(self, key: str, *, ctrl: bool = False) -> None:
        code = {"Enter": 13, "Escape": 27, "Delete": 46, "Tab": 9}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=2 if ctrl else 0)

    def choose(self, selector: str, value: str) -> None:
        """An option: its list is drawn outside the page, where no mouse gets to."""
        chosen = f"Object.assign(document.querySelector({json.dumps(selector)}), {{value: {json.dumps(value)}}})"
        self.evaluate(f"{chosen}.dispatchEvent(new Event('change', {{bubbles: true}}))")

    def upload(self, selector: str, file: Path) -> None:
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def look(self, *, width: int, dark: bool) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def screenshot(self, path: Path) -> None:
        """The whole page, also what is below the window's end."""
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(picture))

    def forget_errors(self) -> None:
        self._browser.events.clear()

    def errors(self) -> list[str]:
        """What the console has of exceptions, refused content and failed requests."""
        ours = [event for event in self._browser.events if event.get("sessionId") == self._session]
        thrown = [event["params"]["exceptionDetails"] for event in ours if event["method"] == "Runtime.exceptionThrown"]
        logged = [event["params"]["entry"] for event in ours if event["method"] == "Log.entryAdded"]
        return [str(each.get("exception", each)) for each in thrown] + [entry["text"] for entry in logged if entry["level"] == "error"]
