"""A hub and a mirror of the tests' own, on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Pages(BaseHTTPRequestHandler):
    """Serves the server's `pages`: path -> (body, headers). Ranges are honoured; `cut` bytes end an answer early."""

    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        self.server.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, with_body: bool) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            headers = {"X-Error-Code": "RepoNotFound"} if "/nobody/" in self.path else {"X-Error-Code": "EntryNotFound"}
            self.send_response(404)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, headers = page
        start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if self.headers.get("Range") else 0
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if with_body:
            end = len(body) - self.server.cut if self.server.cut and len(body) > self.server.cut else len(body)
            self.wfile.write(body[start:end])


@contextmanager
def serve(pages: dict[str, tuple[bytes, dict[str, str]]]) -> Generator[Any]:
    """A server of pages; its address is `address`, what was asked is in `asked`."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.pages, server.asked, server.cut = pages, [], 0
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def mirror_pages(stub: str, files: dict[str, bytes]) -> dict[str, tuple[bytes, dict[str, str]]]:
    listing = [{"path": p, "size": len(b), "sha256": hashlib.sha256(b).hexdigest()} for p, b in files.items()]
    pages = {f"/{stub}/{p}": (b, {}) for p, b in files.items()}
    return {**pages, f"/{stub}/files.json": (json.dumps({"files": listing}).encode(), {})}


def hub_pages(repo: str, files: dict[str, bytes], revision: str = "main") -> dict[str, tuple[bytes, dict[str, str]]]:
    """What the hub's API and file routes answer for one repository."""
    siblings = [{"rfilename": p, "size": len(b), "blobId": _blob(b)} for p, b in files.items()]
    info = {
        "id": repo,
        "modelId": repo,
        "sha": COMMIT,
        "siblings": siblings,
        "private": False,
        "tags": [],
        "downloads": 0,
    }
    tree = [{"type": "file", "oid": _blob(b), "size": len(b), "path": p} for p, b in files.items()]
    pages: dict[str, tuple[bytes, dict[str, str]]] = {}
    kind = {"Content-Type": "application/json"}
    for ref in (revision, COMMIT):
        pages[f"/api/models/{repo}/revision/{ref}"] = (json.dumps(info).encode(), kind)
        pages[f"/api/models/{repo}/tree/{ref}"] = (json.dumps(tree).encode(), kind)
        for path, body in files.items():
            pages[f"/{repo}/resolve/{ref}/{path}"] = (body, {"ETag": f'"{_blob(body)}"', "X-Repo-Commit": COMMIT})
    pages[f"/api/models/{repo}"] = (json.dumps(info).encode(), kind)
    return pages


def _blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
