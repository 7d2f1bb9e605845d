"""A real browser for tests: headless Chromium, driven over a pipe in its DevTools protocol.

Two file descriptors and JSON are all that takes, so no driver and no further package is needed.
"""

import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--window-size=1280,1000", "--remote-debugging-pipe"),
]

# TensorBoard hides most of its page in shadow roots, where querySelectorAll does not look.
WALK = """
const walk = (node, visit) => {
  visit(node);
  for (const child of [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes])
    if (!['STYLE', 'SCRIPT', 'TEMPLATE'].includes(child.nodeName)) walk(child, visit);
};
"""


def find() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One browser, looking at one page at a time.

    Args:
        program: path of Chromium.
        profile: an empty folder for whatever it writes.
    """

    def __init__(self, program: str, profile: Path):
        command_read, self._commands = _pipe()
        self._answers, answer_write = _pipe()
        with open(profile / "chromium.log", "wb") as log:
            # Standard error first: the log may have the number that a pipe needs.
            wanted = [(log.fileno(), 2), (command_read, 3), (answer_write, 4)]
            actions = [(os.POSIX_SPAWN_DUP2, own, its) for own, its in wanted]
            arguments = [program, *FLAGS, f"--user-data-dir={profile}"]
            options = {"file_actions": actions, "setpgroup": 0}
            self._pid = os.posix_spawn(program, arguments, os.environ, **options)
        os.close(command_read)
        os.close(answer_write)
        self._ids, self._rest, self._page = itertools.count(1), b"", {}

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *unused: object) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._commands)
        os.close(self._answers)

    def open(self, url: str) -> None:
        """Look at an address, in a new tab."""
        self._page = {}
        target = self.call("Target.createTarget", url=url)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._page = {"sessionId": attached["sessionId"]}

    def call(self, method: str, **parameters: Any) -> dict:
        """Send a command and return its result; what the browser tells besides is dropped."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters, **self._page}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self, timeout: float = 30) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], timeout)
            data = os.read(self._answers, 1 << 16) if ready else b""
            assert data, "the browser has ended, or does not answer"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression, or of a promise of one."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """Return all text of the page, shadow roots included, one line per piece."""
        collect = "if (node.nodeType === Node.TEXT_NODE) found.push(node.data.trim())"
        return self.evaluate(
            f"(() => {{ {WALK} const found = []; walk(document, node => {{ {collect} }});"
            " return found.filter(Boolean).join('\\n'); })()"
        )

    def images(self) -> list[dict]:
        """Return width, height and the RGB of each pixel row's centre for all loaded pictures."""
        collect = """
            if (node.nodeName !== 'IMG' || !node.complete || !node.naturalWidth) return;
            const [width, height] = [node.naturalWidth, node.naturalHeight];
            const canvas = Object.assign(document.createElement('canvas'), {width, height});
            const context = canvas.getContext('2d');
            context.drawImage(node, 0, 0);
            const {data} = context.getImageData(Math.floor(width / 2), 0, 1, height);
            const column = [];
            for (let y = 0; y < height; y++) column.push([...data.slice(4 * y, 4 * y + 3)]);
            found.push({width, height, column});
        """
        return self.evaluate(
            f"(() => {{ {WALK} const found = []; walk(document, node => {{ {collect} }});"
            " return found; })()"
        )

    def wait_for(self, found, what: str, timeout: float = 20) -> Any:
        """Return the first true value of `found()`; fail after the timeout."""
        end = time.monotonic() + timeout
        while not (value := found()):
            assert time.monotonic() < end, f"the page never showed {what}; it shows:\n{self.text()}"
            time.sleep(0.1)
        return value


def _pipe() -> tuple[int, int]:
    """Make a pipe whose numbers are not 3 and 4, which Chromium listens and answers on."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high
