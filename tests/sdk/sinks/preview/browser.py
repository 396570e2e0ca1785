"""A real Chromium, driven over WebDriver with the standard library alone."""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "Chromium and its chromedriver are not installed"

TIMEOUT_S = 60.0
_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Browser:
    """One browser window; a context manager. ``profile`` is an empty folder for its data."""

    def __init__(self, profile: Path) -> None:
        self._driver = subprocess.Popen(
            [str(DRIVER), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._url = f"http://127.0.0.1:{self._port()}/session"
        options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        session = self._ask("POST", "", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._url += "/" + session["sessionId"]

    def visit(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """What ``script`` (a function's body) returns in the page."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, script: str) -> Any:
        """What ``script`` (an expression) gives as soon as it is true, looked at on every picture drawn."""
        body = f"""
            const done = arguments[arguments.length - 1];
            const look = () => {{ const found = ({script}); found ? done(found) : setTimeout(look, 20); }};
            look();"""
        self._ask("POST", "/timeouts", {"script": int(1000 * TIMEOUT_S)})
        return self._ask("POST", "/execute/async", {"script": body, "args": []})

    def resize(self, width: int, height: int) -> None:
        """Give the page ``width`` x ``height`` CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self._ask("POST", "/goog/cdp/execute", command)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot", None)))

    def stop(self) -> None:
        """Stop the browser's processes, as a laptop that sleeps does."""
        for pid in _descendants(self._driver.pid):
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in _descendants(self._driver.pid):
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        try:
            self._ask("DELETE", "", None)
        finally:
            self._driver.terminate()
            self._driver.wait(timeout=TIMEOUT_S)
            assert self._driver.stdout is not None
            self._driver.stdout.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if "on port " in line and "success" in line:
                return int(line.rsplit("on port ", 1)[1].strip(" .\n"))
        raise AssertionError("chromedriver ended before it listened")

    def _ask(self, method: str, path: str, content: dict[str, Any] | None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = Request(self._url + path, data=data, method=method)
        with urlopen(request, timeout=2 * TIMEOUT_S) as answer:
            return json.load(answer)["value"]


class OtherSite:
    """A web site on another port of this machine that tries to get at the preview."""

    def __init__(self, page: str) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 1.0  # of a connection that the browser opens in advance and never uses

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing waits for them
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, host: str) -> str:
        return f"http://{host}:{self._server.server_port}/"

    def __enter__(self) -> OtherSite:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _descendants(pid: int) -> Iterator[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended
                continue
            parents[int(folder.name)] = int(fields[1])
    for each in parents:
        above = parents.get(each)
        while above and above != pid:
            above = parents.get(above)
        if above == pid:
            yield each
