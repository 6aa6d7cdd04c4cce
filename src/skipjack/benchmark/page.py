"""The benchmark as a web page: choose a model and what to measure, watch it, look at the report, take it home."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import queue
import tempfile
import threading
from collections.abc import Generator
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from skipjack.benchmark.engines import LOADERS
from skipjack.benchmark.measure import Request, measure
from skipjack.benchmark.profile import profile_measured
from skipjack.benchmark.report_html import html
from skipjack.benchmark.results import Report, as_json
from skipjack.benchmark.scenarios import SCHEDULERS
from skipjack.core.errors import ConfigError, SkipjackError
from skipjack.session.teams import resolve_cores

BUILT_IN = {"digits (comes along)": "models/digits/digits.onnx"}
OWN_FILE = "a file of mine"
_POLL_S = 0.2
_REPORT_PIXELS = 1500
_STYLE = """
.report iframe { width: 100%; border: 0 }
.progress { background: #8883; border-radius: 4px }
.progress div { background: #2563eb; height: 10px; border-radius: 4px }
"""


@dataclass(frozen=True)
class Form:
    """What the page asks for, as it comes from its fields."""

    choice: str
    path: str
    upload: str | None
    scenario: str
    engines: list[str]
    cores: float
    streams: float
    batch: float
    seconds: float
    rate: float
    precision: str

    def request(self) -> Request:
        """What to measure; ConfigError when the form does not say it."""
        if not self.engines:
            raise ConfigError("choose at least one engine")
        first, *others = sorted(self.engines, key=lambda name: name != "skipjack")
        poisson = self.scenario == "poisson"
        return Request(
            self._model(),
            batch_size=int(self.batch),
            num_cores=int(self.cores),
            num_streams=int(self.streams) or None,
            scenario=self.scenario,
            time_s=float(self.seconds),
            rate=float(self.rate) if poisson else None,
            engine=first,
            compare=tuple(others),
            precision=self.precision,
        )

    def _model(self) -> str:
        if self.choice in BUILT_IN:
            return str(resources.files("skipjack") / BUILT_IN[self.choice])
        model = self.upload or self.path.strip()
        if not model:
            raise ConfigError("upload a model or write the path of one")
        return model


def available_engines() -> list[str]:
    """The engines whose packages are installed."""
    return [name for name in LOADERS if name == "skipjack" or importlib.util.find_spec(name) is not None]


Update = tuple[str, str, str | None, str | None]
"""Status line, report, and the two files to download, as HTML and paths."""


def run_form(form: Form, folder: Path) -> Generator[Update]:
    """Measure and say on the way how far it is; the last update has the report."""
    try:
        request = form.request()
    except SkipjackError as error:
        yield _failed(str(error)), "", None, None
        return
    told: queue.Queue[tuple[str, float]] = queue.Queue()
    found: list[Report | Exception] = []

    def work() -> None:
        try:
            found.append(measure(request, lambda text, done: told.put((text, done))))
        except Exception as error:
            found.append(error)

    worker = threading.Thread(target=work, name="skipjack-page", daemon=True)
    worker.start()
    yield _progress("start", 0.0), "", None, None
    while worker.is_alive() or not told.empty():
        try:
            yield _progress(*told.get(timeout=_POLL_S)), "", None, None
        except queue.Empty:
            continue
    yield _finished(found[0], folder)


def _finished(found: Report | Exception, folder: Path) -> Update:
    if isinstance(found, Exception):
        return _failed(str(found) or type(found).__name__), "", None, None
    results = as_json(found)
    latencies = {label: (1e3 * values).tolist() for label, values in found.latencies_s.items()}
    page = html(results, profile_measured(found), latencies)
    where = Path(tempfile.mkdtemp(dir=folder))
    (where / "benchmark.json").write_text(json.dumps(results, indent=2))
    (where / "benchmark.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    frame = f'<iframe title="report" height="{_REPORT_PIXELS}" srcdoc="{escape(page, quote=True)}"></iframe>'
    problems = "".join(f"<p>{escape(reason)}</p>" for reason in found.refused.values())
    return f"<p><b>Done.</b></p>{problems}", frame, str(where / "benchmark.json"), str(where / "benchmark.html")


def _progress(text: str, done: float) -> str:
    share = round(100 * min(max(done, 0.0), 1.0))
    return f'<p>{escape(text)}</p><div class="progress"><div style="width:{share}%"></div></div>'


def _failed(reason: str) -> str:
    return f'<p role="alert"><b>Not measured:</b> {escape(reason)}</p>'


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        return importlib.import_module("gradio")
    except ImportError:
        raise ConfigError("the benchmark page needs the package gradio: pip install 'skipjack[ui]'") from None


def build(folder: Path) -> Any:
    """The page; files to download are written below folder."""
    gr = _gradio()
    engines = available_engines()
    cores = len(resolve_cores(None))
    with gr.Blocks(title="skipjack benchmark", analytics_enabled=False) as page:
        gr.Markdown("# skipjack benchmark\nOne model, one run, every engine on the same cores and the same inputs.")
        with gr.Row():
            with gr.Column(scale=1):
                fields = [
                    gr.Dropdown([*BUILT_IN, OWN_FILE], value=next(iter(BUILT_IN)), label="Model"),
                    gr.Textbox(label="Path on this machine", placeholder="/models/model.onnx"),
                    gr.File(label="or upload an .onnx file", type="filepath", file_types=[".onnx"]),
                    gr.Dropdown(list(SCHEDULERS), value="sync", label="Scenario"),
                    gr.CheckboxGroup(engines, value=engines[:2], label="Engines"),
                    gr.Slider(1, cores, value=1, step=1, label="Cores"),
                    gr.Number(0, precision=0, minimum=0, label="Streams (0: as the scenario likes)"),
                    gr.Number(1, precision=0, minimum=1, label="Batch size"),
                    gr.Number(5, minimum=0.5, label="Seconds per engine"),
                    gr.Number(100, minimum=0, label="Requests per second (poisson)"),
                    gr.Radio(["fp32", "bf16"], value="fp32", label="Precision"),
                ]
                start = gr.Button("Measure", variant="primary", elem_id="measure")
            with gr.Column(scale=3):
                status = gr.HTML(elem_id="status")
                with gr.Row():
                    files = [gr.DownloadButton("JSON", visible=False), gr.DownloadButton("HTML report", visible=False)]
                report = gr.HTML(elem_id="report", elem_classes="report")

        def measured(*values: Any) -> Generator[tuple[Any, ...]]:
            for text, frame, *made in run_form(Form(*values), folder):
                yield text, frame, *(gr.DownloadButton(value=path, visible=path is not None) for path in made)

        start.click(measured, fields, [status, report, *files], concurrency_limit=1)
    return page


def serve(host: str, port: int, password: str | None, open_browser: bool) -> None:
    """Serve the page until interrupted.

    Whoever reaches it may have any model file read, so any address but loopback asks for a password.
    """
    if host not in ("127.0.0.1", "localhost", "::1") and not password:
        raise ConfigError(f"--host {host} lets others in: give --password USER:PASSWORD, or keep 127.0.0.1")
    user, _, secret = (password or "").partition(":")
    if password and not (user and secret):
        raise ConfigError("--password: expected USER:PASSWORD")
    gr = _gradio()
    with tempfile.TemporaryDirectory(prefix="skipjack-page-") as folder:
        theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        build(Path(folder)).queue().launch(
            server_name=host,
            server_port=port,
            auth=(user, secret) if password else None,
            inbrowser=open_browser,
            allowed_paths=[folder],
            share=False,
            theme=theme,
            css=_STYLE,
        )
