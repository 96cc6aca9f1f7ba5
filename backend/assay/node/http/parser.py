"""llhttp, for a server that speaks nothing but HTTP/1: what asks for an upgrade is read as if it did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httptools


class Parser:
    """Calls `protocol` as httptools does. llhttp takes all that follows the head of a request for an upgrade
    for another protocol's, its body as well; RFC 9110 §7.8 lets a server leave the upgrade out, and clients
    that ask for one with each request go on with HTTP/1.1 then."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._llhttp = httptools.HttpRequestParser(protocol)
        self._plain_head = b""

    @property
    def method(self) -> bytes:
        return bytes(self._llhttp.get_method())

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
                self._llhttp = httptools.HttpRequestParser(self._protocol)
                self._llhttp.feed_data(head)

    def leaves_upgrade_out(self, target: bytes, headers: Mapping[bytes, bytes]) -> bool:
        """Asked when a head is complete: whether it will come again, without its upgrade."""
        if not self._llhttp.should_upgrade() or self.method == b"CONNECT":
            return False
        lines = [b"%b %b HTTP/%b" % (self.method, target, self._llhttp.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in headers.items() if header[0] != b"upgrade"]
        self._plain_head = b"\r\n".join((*lines, b"", b""))
        return True
