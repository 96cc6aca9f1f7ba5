"""As much of gRPC (HTTP/2, RFC 9113) as a load needs: unary calls, one at a time a connection."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW = 65_535
"""Bytes that may be under way before the other side gives more."""
GRANT = 1 << 30
_HEAD = struct.Struct(">HBBBI")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def header_block(path: str) -> bytes:
    """The request's headers in HPACK (RFC 7541) without its dynamic table, so that all calls share it."""

    def literal(value: str) -> bytes:
        return bytes((len(value),)) + value.encode()

    return (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04" + literal(path)
        + b"\x01" + literal("127.0.0.1")
        + b"\x0f\x10" + literal("application/grpc")
        + b"\x00" + literal("te") + literal("trailers")
    )  # fmt: skip


def grpc_request(path: str, message: bytes) -> tuple[bytes, bytes]:
    """(header block, length-prefixed message)."""
    return header_block(path), b"\0" + len(message).to_bytes(4, "big") + message


@dataclass
class GrpcStream:
    """One connection's state; `opening` is sent first."""

    next_id: int = 1
    window: int = WINDOW
    body: bytes = b""
    held: bytes = b""
    """Of a request, what the window does not let out yet."""
    buffer: bytearray = field(default_factory=bytearray)

    @property
    def opening(self) -> bytes:
        grant = GRANT.to_bytes(4, "big")
        return PREFACE + frame(SETTINGS, 0, 0, b"\0\4" + grant) + frame(WINDOW_UPDATE, 0, 0, grant)

    def request(self, block: bytes, message: bytes) -> bytes:
        """The frames of a call that may be sent now."""
        number, self.next_id = self.next_id, self.next_id + 2
        data = frame(DATA, END_STREAM, number, message)
        head = frame(HEADERS, END_HEADERS, number, block)
        if self.window < len(message):
            self.held = data
            return head
        self.window -= len(message)
        return head + data

    def receive(self, one: socket.socket, data: bytes) -> bytes | None:
        """The call's answer, a length-prefixed message, when it is whole; empty if the call failed. Raises
        ConnectionError."""
        buffer = self.buffer
        buffer += data
        answer = None
        while len(buffer) >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer)
            size = (high << 8) + low
            if len(buffer) < 9 + size:
                break
            payload = bytes(buffer[9 : 9 + size])
            del buffer[: 9 + size]
            if kind == DATA:
                self.body += payload
            elif kind in (SETTINGS, PING) and not flags & ACK:
                one.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind == WINDOW_UPDATE and not stream:
                self._grow(one, int.from_bytes(payload, "big"))
            elif kind == GOAWAY:
                raise ConnectionError(f"the server ended the connection: {payload[8:]!r}")
            if kind == RESET or (kind in (DATA, HEADERS) and flags & END_STREAM):
                answer, self.body = self.body, b""
        return answer

    def _grow(self, one: socket.socket, more: int) -> None:
        self.window += more
        if self.held and len(self.held) - 9 <= self.window:
            self.window -= len(self.held) - 9
            one.sendall(self.held)
            self.held = b""
