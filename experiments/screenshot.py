"""Take a picture of MLflow's comparison of several runs: the chart view of one experiment.

    python experiments/screenshot.py DB OUT.png [--experiment NAME]

DB is a database of runs, such as ``runs/mlflow.db``; without NAME, its experiment with most runs is
shown. Needs Debian's packages ``chromium`` and ``chromium-driver``: WebDriver is plain HTTP, and
lets us wait until the charts are there.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc.errors import InputError
from amc.ui import serve

CHROMIUM_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)
LIMIT_S = 60.0
SETTLE_S = 1.5  # the picture counts as done once it has not changed for so long
# Panels that only take room: MLflow's chat, and the side bar.
CLUTTER = ("mlflow.assistant.chat_panel.close", "mlflow_header.toggle_sidebar_button")
DRAWN = "return [...document.querySelectorAll('.js-plotly-plot .main-svg')].length"
# Plotly's tool bars, which a mouse brings up and a browser without one always shows.
QUIET = (
    "document.head.appendChild(document.createElement('style')).textContent = "
    "'.modebar { display: none !important }'"
)
CLICK = "document.querySelector(`[data-component-id='${arguments[0]}']`)?.click()"


@dataclass(frozen=True)
class Browser:
    """A WebDriver session: ``base`` is its address."""

    base: str

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the value that the driver answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            return json.load(response)["value"]

    def run(self, script: str, *arguments: str) -> Any:
        """Return what a script on the page returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def picture(self) -> bytes:
        """Return the page as PNG."""
        return base64.b64decode(self.call("GET", "/screenshot"))


@contextlib.contextmanager
def browser(width: int, height: int) -> Iterator[Browser]:
    """Start a headless Chromium with a profile of its own, and end it."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise InputError("chromium is missing; apt-get install chromium chromium-driver")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
        try:
            flags = [
                *CHROMIUM_FLAGS,
                f"--window-size={width},{height}",
                f"--user-data-dir={profile}",
            ]
            chrome = {"goog:chromeOptions": {"binary": chromium, "args": flags}}
            root = Browser(f"http://127.0.0.1:{port}")
            session = _when_it_answers(root, {"capabilities": {"alwaysMatch": chrome}})
            page = Browser(f"{root.base}/session/{session}")
            try:
                yield page
            finally:
                page.call("DELETE", "")
        finally:
            process.terminate()
            process.wait()


def _when_it_answers(root: Browser, wanted: dict[str, Any]) -> str:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            return str(root.call("POST", "/session", wanted)["sessionId"])
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def experiment_id(db: Path, name: str | None) -> str:
    """Return the id of the experiment called ``name``, or of the one with most runs."""
    query = (
        "select e.experiment_id, e.name from experiments e join runs r using (experiment_id) "
        "where r.lifecycle_stage = 'active' group by 1 order by count(*) desc"
    )
    with contextlib.closing(sqlite3.connect(f"{db.resolve().as_uri()}?mode=ro", uri=True)) as file:
        rows = file.execute(query).fetchall()
    found = [str(row[0]) for row in rows if name in (None, row[1])]
    if not found:
        raise InputError(f"{db} has no runs of experiment {name!r}; it has {[r[1] for r in rows]}")
    return found[0]


def take(url: str, width: int, height: int) -> bytes:
    """Return a picture of the page at ``url`` once its charts stand still."""
    with browser(width, height) as page:
        page.call("POST", "/url", {"url": url})
        deadline = time.monotonic() + LIMIT_S
        while not page.run(DRAWN):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no chart appeared within {LIMIT_S:.0f} s")
            time.sleep(0.2)
        page.run(QUIET)
        for control in CLUTTER:
            page.run(CLICK, control)
        before = b""
        while time.monotonic() < deadline:
            time.sleep(SETTLE_S)
            now = page.picture()
            if now == before:
                return now
            before = now
        raise TimeoutError(f"the page still changed after {LIMIT_S:.0f} s")


def main() -> None:
    """Write the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("db", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--experiment")
    parser.add_argument("--size", default="1500x1180", help="of the picture, in pixels")
    options = parser.parse_args()
    width, height = (int(part) for part in options.size.split("x"))
    chosen = experiment_id(options.db, options.experiment)
    with serve(f"sqlite:///{options.db.resolve()}") as server:
        url = f"{server.url}/#/experiments/{chosen}/runs?compareRunsMode=CHART"
        options.out.write_bytes(take(url, width, height))


if __name__ == "__main__":
    main()
