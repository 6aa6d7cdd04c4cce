"""The benchmark page: its form without a browser, and all of it in headless Chromium where there is one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skipjack.benchmark.page import OWN_FILE, Form, run_form, serve
from skipjack.core.errors import ConfigError

_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_QUIET += ["--disable-component-update", "--disable-sync"]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def form(**changes: object) -> Form:
    values: dict[str, object] = {
        "choice": "digits (comes along)", "path": "", "upload": None, "scenario": "sync", "engines": ["skipjack"],
        "cores": 1, "streams": 0, "batch": 1, "seconds": 0.5, "rate": 100, "precision": "fp32",
    }  # fmt: skip
    return Form(**{**values, **changes})  # type: ignore[arg-type]


def test_a_form_becomes_a_report_with_files(tmp_path: Path) -> None:
    *progress, last = run_form(form(), tmp_path)
    assert progress, "nothing was said on the way"
    assert all("progress" in p[0] for p in progress)
    text, frame, json_path, html_path = last
    assert "Done" in text
    assert "<iframe" in frame
    assert json.loads(Path(json_path or "").read_text())["batch_size"] == 1
    assert "Time per node" in Path(html_path or "").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engines": []}, "at least one engine"),
        ({"choice": OWN_FILE}, "upload a model"),
        ({"choice": OWN_FILE, "path": "/nowhere/model.onnx"}, "/nowhere/model.onnx"),
        ({"scenario": "poisson", "rate": 0}, "rate"),
    ],
)
def test_a_form_that_cannot_run_says_why(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    *_, last = run_form(form(**changes), tmp_path)
    assert "Not measured" in last[0]
    assert message in last[0]
    assert last[1:] == ("", None, None)


def test_a_wide_bind_needs_a_password() -> None:
    with pytest.raises(ConfigError, match="--password"):
        serve("0.0.0.0", 7860, None, False)
    with pytest.raises(ConfigError, match="USER:PASSWORD"):
        serve("127.0.0.1", 7860, "secret", False)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def reachable(port: int, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(600):
        if process.poll() is not None:
            return False
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the page needs skipjack[ui]")
    drivers = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    port = free_port()
    command = [sys.executable, "-m", "skipjack", "benchmark", "ui", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert reachable(port, process), (process.stderr.read() if process.stderr else b"").decode()
        with drivers.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=BROWSER, args=_QUIET)
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            problems: list[str] = []
            page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
            page.on("request", lambda r: problems.append(r.url) if _is_outside(r.url, port) else None)
            page.goto(f"http://127.0.0.1:{port}")
            page.wait_for_selector("#measure")
            page.get_by_label("Seconds per engine").fill("0.5")
            page.click("#measure")
            page.wait_for_selector("#report iframe", timeout=120_000)
            report = page.frame_locator("#report iframe")
            assert "digits.onnx" in report.locator("h1").inner_text()
            assert report.locator("svg").count() >= 3
            with page.expect_download() as download:
                page.get_by_role("button", name="JSON").click()
            assert json.loads(Path(download.value.path()).read_text())["num_cores"] == 1
            page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
            assert (tmp_path / "page.png").stat().st_size > 20_000
            browser.close()
        assert not problems
    finally:
        process.terminate()
        process.wait(30)


def _is_outside(url: str, port: int) -> bool:
    return not url.startswith((f"http://127.0.0.1:{port}", "data:", "blob:", "about:"))
