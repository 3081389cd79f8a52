"""A headless Chromium for tests of pages: opened by its own protocol, watched for errors and requests elsewhere."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--mute-audio", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """One tab: goto, ask a script, take its picture; `errors` and `requests` are what it said and asked for."""

    def __init__(self, socket):
        self.socket, self.numbers = socket, itertools.count(1)
        self.errors, self.requests = [], []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        until = time.monotonic() + 60
        while True:
            answer = json.loads(self.socket.recv(timeout=until - time.monotonic()))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := until - time.monotonic()) > 0:
                self._note(json.loads(self.socket.recv(timeout=left)))

    def ask(self, script: str):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> np.ndarray:
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def until(self, holds, *, seconds: float = 60.0):
        """Wait until `holds(self)` is true; its last value is what fails the test."""
        stop = time.monotonic() + seconds
        while not (value := holds(self)):
            assert time.monotonic() < stop, f"still {value!r} after {seconds:g} s; the page said {self.errors}"
            self.listen(0.25)
        return value

    def _note(self, event: dict) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"])[:300])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.errors.append(json.dumps([a.get("value") for a in params["args"]])[:300])
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(params["entry"]["text"][:300])
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("data:", "blob:")):
                self.requests.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(params["url"])


@contextlib.contextmanager
def open_page(folder: Path, *, width: int = 900, height: int = 600):
    """A tab of a fresh browser; skips the test where there is no browser."""
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    client = pytest.importorskip("websockets.sync.client")
    command = [browser, *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        noted, stop = folder / "DevToolsActivePort", time.monotonic() + 30
        while not (noted.exists() and len(noted.read_text().splitlines()) == 2):
            assert process.poll() is None and time.monotonic() < stop, "the browser did not start"
            time.sleep(0.05)
        port, _ = noted.read_text().splitlines()
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as listed:
            tab = next(t for t in json.load(listed) if t["type"] == "page")
        with client.connect(tab["webSocketDebuggerUrl"], max_size=1 << 26) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(timeout=20)
