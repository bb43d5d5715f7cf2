"""A small chat-completions server on this machine that answers by the schema it is given, and misbehaves on order.

Faults are those of real servers: 429 with Retry-After, 500, a reset connection, a stall, a body cut short, JSON cut
short, a proxy's page of HTML, an answer cut where it is still valid, prose.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "500", "reset", "stall", "short body", "cut json", "html", "chopped", "prose")


def answer_to(schema: dict[str, Any], noun: str) -> dict[str, Any]:
    """What this server says about a noun: always the same, and different for each."""
    if "prompt" in schema["properties"]:
        return {"prompt": f"a photo of one {noun} on a table"}
    captions = schema["properties"]["captions"]["minItems"]
    return {
        "has": {"colour": ["red"], "shape": [f"like {noun}"[:16].strip()]},
        "could": {"material": ["oak"]},
        "captions": [f"{noun} number {number} on a table" for number in range(captions)],
    }


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


class ChatServer:
    """`fault(number)` names the fault of the number-th request, or None; `log` counts requests per noun."""

    def __init__(self, share: float = 0.0, *, seed: int = 0, stall_s: float = 1.0, only: str | None = None) -> None:
        self.share, self.stall_s, self.only = share, stall_s, only
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.faults: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def draw(self) -> str | None:
        with self.lock:
            if self.only is not None:
                fault: str | None = self.only
            else:
                fault = self.rng.choice(FAULTS) if self.rng.random() < self.share else None
            self.faults[fault or "none"] += 1
        return fault

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                with contextlib.suppress(OSError):
                    self._answer(body, server.draw())

            def _answer(self, body: dict[str, Any], fault: str | None) -> None:
                parts = body["messages"][0]["content"]
                text = next(part["text"] for part in parts if part["type"] == "text")
                noun = re.search(r"one and the same (.+?)\.|photograph of one (.+?) in", text)
                assert noun is not None
                name = noun[1] or noun[2]
                content = json.dumps(answer_to(body["response_format"]["json_schema"]["schema"], name))
                reason = "stop"
                if fault == "429":
                    return self._send(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.05"})
                if fault == "500":
                    return self._send(500, b'{"error": {"message": "oh"}}')
                if fault == "redirect":
                    return self._send(302, b"", {"Location": "http://127.0.0.2:9/v1/chat/completions"})
                if fault == "401":
                    return self._send(401, b'{"error": {"message": "who are you?"}}')
                if fault == "reset":
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                    return self.connection.close()
                if fault == "stall":
                    time.sleep(server.stall_s)
                if fault == "html":
                    return self._send(200, b"<html><body>Bad gateway</body></html>", kind="text/html")
                if fault == "chopped":
                    chopped = json.loads(content)
                    for value in chopped.values():
                        if isinstance(value, dict):
                            value.popitem()
                    content, reason = json.dumps(chopped), "length"
                if fault == "prose":
                    content = f"Sure! Here is what I see: {content}"
                reply = {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": [
                        {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content}}
                    ],
                }
                data = json.dumps(reply).encode()
                if fault == "cut json":
                    return self._send(200, data[: len(data) // 2])
                if fault == "short body":
                    self._send(200, data[:-20], {"Content-Length": str(len(data))})
                    self.close_connection = True
                    return None
                self._send(200, data)
                with server.lock:
                    server.answered[name] += 1
                return None

            def _send(
                self, status: int, data: bytes, headers: dict[str, str] | None = None, kind: str = "application/json"
            ) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(data)), "Content-Type": kind, **(headers or {})}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(data)

        return Handler
