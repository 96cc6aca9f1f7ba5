"""llhttp, for a server that speaks nothing but HTTP/1: heads whole and bounded, and no upgrades."""

from __future__ import annotations

from typing import Any, Protocol

import httptools

from assay.node.http.exchange import MAX_HEAD


class Reader(Protocol):
    """Whom a parser tells what it reads."""

    def on_message_begin(self) -> None: ...

    def on_headers_complete(self) -> None: ...

    def on_body(self, body: bytes) -> None: ...

    def on_message_complete(self) -> None: ...

    def abort(self) -> None:
        """What follows a body has no end."""


class Parser:
    """`target` and `headers` (lower-case names, of a repeated one the first) are of the last head; `size` is
    theirs in bytes, then that of what follows the body.

    llhttp takes all that follows the head of a request for an upgrade for another protocol's, its body as
    well. RFC 9110 §7.8 lets a server leave the upgrade out, and clients that ask for one with each request go
    on with HTTP/1.1 then: so they are read as if they had not.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.on_body = reader.on_body
        self.on_message_complete = reader.on_message_complete
        self._llhttp: Any = httptools.HttpRequestParser(self)
        self._plain_head = b""
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.size = 0
        self.in_head = False

    @property
    def method(self) -> str:
        return str(self._llhttp.get_method().decode())

    @property
    def is_http_1_0(self) -> bool:
        return bool(self._llhttp.get_http_version() == "1.0")

    @property
    def keeps_alive(self) -> bool:
        return bool(self._llhttp.should_keep_alive())

    def feed(self, data: bytes) -> bool:
        """False: what follows a CONNECT is not HTTP. Raises HttpParserError."""
        left: bytes | memoryview = data
        while True:
            try:
                self._llhttp.feed_data(left)
                return True
            except httptools.HttpParserUpgrade as upgrade:
                head, self._plain_head = self._plain_head, b""
                if not head:
                    return False
                left = memoryview(left)[upgrade.args[0] :]
                self._llhttp = httptools.HttpRequestParser(self)
                self._llhttp.feed_data(head)

    # Called by llhttp

    def on_message_begin(self) -> None:
        self.target, self.headers, self.size = b"", {}, 0
        self.in_head = True
        self._reader.on_message_begin()

    def on_url(self, url: bytes) -> None:
        self.target += url
        self.size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.size += len(name) + len(value) + 4
        if self.in_head:
            name = name.lower()
            if name == b"host" and name in self.headers:
                value = self.headers.pop(name) + b", " + value  # which is no host
            self.headers.setdefault(name, value)
        elif self.size > MAX_HEAD:
            self._reader.abort()

    def on_headers_complete(self) -> None:
        if self._llhttp.should_upgrade() and self.method != "CONNECT":
            lines = [b"%b %b HTTP/%b" % (self._llhttp.get_method(), self.target, self._version)]
            lines += [b"%b: %b" % header for header in self.headers.items() if header[0] != b"upgrade"]
            self._plain_head = b"\r\n".join((*lines, b"", b""))
            return
        self.in_head = False
        self._reader.on_headers_complete()
        self.size = 0

    @property
    def _version(self) -> bytes:
        return bytes(self._llhttp.get_http_version().encode())
