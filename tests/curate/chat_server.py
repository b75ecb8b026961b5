"""A server on this machine that speaks OpenAI's protocol, and does what it is told: answers well, badly, or not at all.

Requests are checked as a real server checks them: the model, the key, the parts of a message, the pictures in it.
"""

import base64
import io
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from PIL import Image

MODEL = "tiny-vlm"


@dataclass(frozen=True)
class Reply:
    """What the server does with a request.

    `text` is said where `status` is 200. `how` it is sent: whole; "broken" as JSON that ends too early; "dropped", the
    connection closed after half of it; "silent", not before `Server.release` is set; "html", as a proxy's error page.
    """

    text: str = ""
    status: int = 200
    how: Literal["whole", "broken", "dropped", "silent", "html"] = "whole"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Any = None
    """In the place of `text`, whatever it be."""


class Asked:
    """A request as it came: the whole body, and its text and pictures, of all turns."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.texts: list[str] = []
        self.pictures: list[Image.Image] = []
        for message in body["messages"]:
            content: Any = message["content"]
            parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in parts:
                if part["type"] == "text":
                    self.texts.append(part["text"])
                else:
                    head, _, data = part["image_url"]["url"].partition(";base64,")
                    picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
                    picture.load()
                    if head != f"data:image/{(picture.format or '').lower()}":
                        raise ValueError(f"{head} holds a {picture.format}")
                    self.pictures.append(picture)

    @property
    def last(self) -> str:
        return self.texts[-1]


Script = Callable[[Asked], Reply | str]


class Server(ThreadingHTTPServer):
    """Answers with the replies in `queue`, and then with what `script` says.

    `asked` holds what was asked, `most_at_once` how many requests were under way together. A request with a schema is
    refused unless `guides`.
    """

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.queue: deque[Reply] = deque()
        self.asked: list[Asked] = []
        self.paths: list[str] = []
        self.models = [MODEL]
        self.lists_models = True
        self.key = ""
        self.guides = True
        self.release = threading.Event()
        self.gate: threading.Barrier | None = None
        self.under_way = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away."""

    def decide(self, body: dict[str, Any]) -> Reply:
        """Check a request, and find the reply to it."""
        if body.get("model") not in self.models:
            return Reply(f"The model `{body.get('model')}` does not exist.", 404)
        try:
            asked = Asked(body)
        except (KeyError, TypeError, ValueError, OSError) as error:
            return Reply(f"bad message: {error!r}", 400)
        with self.lock:
            self.asked.append(asked)
            if self.queue:
                return self.queue.popleft()
        if body.get("response_format") and not self.guides:
            return Reply("response_format json_schema is not supported", 400)
        reply = self.script(asked)
        return Reply(reply) if isinstance(reply, str) else reply


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if not self._may_enter():
            return
        if self.path != "/v1/models" or not self.server.lists_models:
            self._send(404, {"detail": "Not Found"})
            return
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may_enter():
            return
        if self.path != "/v1/chat/completions":
            self._send(404, {"detail": "Not Found"})
            return
        with self.server.lock:
            self.server.under_way += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.under_way)
        try:
            if self.server.gate is not None:
                self.server.gate.wait(10)
            reply = self.server.decide(body)
        finally:
            with self.server.lock:
                self.server.under_way -= 1
        self._carry_out(reply, int(body.get("max_tokens", 16)))

    def _may_enter(self) -> bool:
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            given = self.headers.get("Authorization")
            self._send(401, {"error": {"message": f"Incorrect API key provided: {given}", "code": "invalid_api_key"}})
            return False
        return True

    def _carry_out(self, reply: Reply, max_tokens: int) -> None:
        if reply.how == "silent":
            self.server.release.wait(10)
            return
        if reply.how == "html":
            self._write(reply.status, b"<html>Bad gateway</html>", reply.headers)
            return
        if reply.status != 200:
            self._send(reply.status, {"error": {"message": reply.text, "type": "scripted"}}, reply.headers)
            return
        words = reply.text.split(" ")
        is_whole = len(words) <= max_tokens
        said = reply.text if is_whole else " ".join(words[:max_tokens])
        message = {"role": "assistant", "content": said if reply.content is None else reply.content}
        finish = "stop" if is_whole else "length"
        usage = {"prompt_tokens": 11, "completion_tokens": min(len(words), max_tokens)}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}
        data = json.dumps(body).encode()
        if reply.how == "broken":
            self._write(200, data[: len(data) // 2], reply.headers)
        elif reply.how == "dropped":
            self._write(200, data, reply.headers, sent=len(data) // 2)
        else:
            self._write(200, data, reply.headers)

    def _send(self, status: int, body: Any, headers: Mapping[str, str] = {}) -> None:
        self._write(status, json.dumps(body).encode(), headers)

    def _write(self, status: int, data: bytes, headers: Mapping[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:sent])


@contextmanager
def serving(script: Script | None = None) -> Iterator[Server]:
    """Run a server while the block lasts; without a script, it repeats the last text it is sent."""
    server = Server(script or (lambda asked: asked.last))
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.005))
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
