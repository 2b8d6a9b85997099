"""A small HTTP server that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Union


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """One answer. ``cut`` sends only so many bytes of the body, and 0 nothing at all."""

    status: int = 200
    body: Union[bytes, dict, list] = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: Union[int, None] = None

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def failure(status: int, code: str = "x", message: str = "No.", **headers: str) -> Answer:
    body = {"error": {"code": code, "message": message, "details": [{"field": "f", "message": "m"}], "request_id": "req_1"}}
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class LocalServer:
    """Answers from ``answers`` in turn, and from ``default`` when there are no more."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: deque[Answer] = deque()
        self.default: Callable[[Asked], Answer] = lambda asked: Answer(200, {})
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                asked = Asked(self.command, self.path, dict(self.headers.items()), self._body())
                owner.asked.append(asked)
                answer = owner.answers.popleft() if owner.answers else owner.default(asked)
                if answer.cut == 0:
                    self.close_connection = True
                    return
                content = answer.content
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content if answer.cut is None else content[: answer.cut])
                self.close_connection = self.close_connection or answer.cut is not None

            do_GET = do_POST = do_PUT = do_DELETE = _handle

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
