"""What goes wrong with a request, and how each kind of it looks on the wire."""

from __future__ import annotations

import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from loopback.state import Answer

BODY = ("break", "truncate", "nolength", "hang", "slow")


@dataclass
class Fault:
    """What goes wrong with the requests whose `METHOD /path` matches; `times` None is for ever.

    Before anything is done: a status such as `503`, `reset`, `delay` (it waits), `norange` (Range is ignored).
    After it was done: `lost` (reset instead of an answer), `header` (the one named by `drop` is missing), `corrupt`
    (a wrong byte at the end), `short` (half of the body, and a length that fits), `nolength` (half, and no length),
    and half of it under the true length, followed by `truncate` (an orderly end), `break` (reset), or `hang` (nothing);
    `slow`.
    """

    pattern: str
    kind: str
    times: int | None = 1
    seconds: float = 0.0
    """Of delay, hang and slow."""
    drop: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """Of the answer with a status."""

    def due(self, request: str) -> bool:
        if self.times == 0 or not re.search(self.pattern, request):
            return False
        if self.times is not None:
            self.times -= 1
        return True


def reset(handler: BaseHTTPRequestHandler) -> None:
    """Ends the connection as a crash does: no answer, RST."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def send(
    handler: BaseHTTPRequestHandler, answer: Answer, fault: Fault | None, stop: threading.Event
) -> int:
    """Writes an answer as the fault has it; the number of bytes of its body that were sent."""
    kind = fault.kind if fault else ""
    if kind == "lost":
        reset(handler)
        return 0
    body = answer.body
    if kind == "corrupt" and body:
        body = body[:-1] + bytes([body[-1] ^ 1])
    if kind == "short":
        body = body[: len(body) // 2]
    headers = {"Content-Length": str(len(body)), **answer.headers}
    if kind == "nolength":
        del headers["Content-Length"]
    handler.send_response(answer.status)
    for name, value in headers.items():
        if not (fault and kind == "header" and name.lower() == fault.drop.lower()):
            handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return 0
    if fault is None or kind not in BODY:
        handler.wfile.write(body)
        return len(body)
    return _send_badly(handler, body, fault, stop)


def _send_badly(
    handler: BaseHTTPRequestHandler, body: bytes, fault: Fault, stop: threading.Event
) -> int:
    if fault.kind == "slow":
        pieces = 20
        for at in range(pieces):
            handler.wfile.write(body[at * len(body) // pieces : (at + 1) * len(body) // pieces])
            handler.wfile.flush()
            if stop.wait(fault.seconds / pieces):
                break
        return len(body)
    half = body[: len(body) // 2]
    handler.wfile.write(half)
    handler.wfile.flush()
    handler.close_connection = True
    if fault.kind == "hang":
        stop.wait(fault.seconds)
    if fault.kind == "break":
        reset(handler)
    return len(half)
