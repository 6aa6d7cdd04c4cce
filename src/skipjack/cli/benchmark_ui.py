"""`skipjack benchmark ui`: the benchmark as a web page."""

from __future__ import annotations

import click

from skipjack.benchmark.page import serve


@click.command("ui")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Port to listen on.")
@click.option("--password", metavar="USER:PASSWORD", help="Ask visitors for it; needed on any address but loopback.")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser of this machine.")
def benchmark_ui(host: str, port: int, password: str | None, open_browser: bool) -> None:
    """Serve a page on which models are measured: engines side by side, live progress, histogram, time per layer.

    Needs `pip install skipjack[ui]`. The page measures on this machine and reads models from its disk.
    """
    serve(host, port, password, open_browser)
