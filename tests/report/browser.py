"""A headless Chromium, spoken to in its DevTools protocol over two pipes: no driver, no port, no other library."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--force-color-profile=srgb", "--hide-scrollbars", "--remote-debugging-pipe", "about:blank"),
)
LIMIT_S = 20.0


def find_browser() -> str | None:
    """The browser of this machine; None when there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """A running browser.

    Args:
        program: Its executable.
        folder: Where it keeps its profile and what it complains about.
    """

    def __init__(self, program, folder):
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4; the shell puts the pipes there
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in (theirs_in, theirs_out)]
        command = f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]}'
        profile = f"--user-data-dir={folder / 'profile'}"
        with (folder / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", command, program, profile, *FLAGS], pass_fds=high, stdout=log, stderr=log
            )
        for one in (theirs_in, theirs_out, *high):
            os.close(one)
        self._in, self._out, self._buffer = ours_in, ours_out, b""
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method, session=None, **params):
        """Send a command and return its result; events that arrive meanwhile are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def close(self):
        """End it."""
        os.close(self._out)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def _receive(self):
        end = time.monotonic() + LIMIT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the browser said nothing for {LIMIT_S:g} s"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)


class Tab:
    """A page in a browser, from a blank tab on.

    Args:
        browser: The browser.
        width: Width of the view in pixels.
        before: Script that runs before the page's own.
        scripts: Whether the page's scripts run.
    """

    def __init__(self, browser, width=1280, *, before="", scripts=True):
        self.browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        watch = (
            "window.violations = []; addEventListener('securitypolicyviolation', (e) => violations.push(e.blockedURI));"
        )
        self.call("Page.addScriptToEvaluateOnNewDocument", source=watch + before)
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.resize(width)

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def open(self, path, until="document.documentElement.classList.contains('drawn')"):
        """Load a file and wait for an expression to come true."""
        self.call("Page.navigate", url=path.as_uri())
        self.wait(f"document.readyState === 'complete' && ({until})")

    def show(self):
        """Bring it to the front: a page behind another one draws, resizes and changes its colours late or never."""
        self.call("Page.bringToFront")

    def run(self, expression):
        """The value of a JavaScript expression, awaited when it is a promise."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression):
        end = time.monotonic() + LIMIT_S
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"did not come true: {expression}"
            time.sleep(0.02)

    def resize(self, width, height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, kind="", scheme="light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def press(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def said(self):
        """Everything this page complained about: errors, warnings, refusals."""
        own = [event for event in self.browser.events if event.get("sessionId") == self.session]
        found = [
            event["params"]["exceptionDetails"]["text"] for event in own if event["method"] == "Runtime.exceptionThrown"
        ]
        found += [event["params"]["entry"]["text"] for event in own if event["method"] == "Log.entryAdded"]
        console = [event["params"] for event in own if event["method"] == "Runtime.consoleAPICalled"]
        return found + [f"{one['type']}: {one['args'][0].get('value')}" for one in console]

    def requested(self):
        """Addresses that it asked for."""
        own = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"]["request"]["url"] for event in own if event["method"] == "Network.requestWillBeSent"]
