"""The body of a reply that comes piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable


async def write_stream(
    transport: asyncio.WriteTransport,
    stream: AsyncIterator[bytes],
    drained: Callable[[], asyncio.Future[None] | None],
    *,
    chunked: bool,
) -> None:
    """`drained()` is waited for before each piece, where the transport has enough to send for now."""
    try:
        async for piece in stream:
            if piece:
                transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if (waiting := drained()) is not None:
                await waiting
    finally:
        if (close := getattr(stream, "aclose", None)) is not None:
            await close()
    if chunked:
        transport.write(b"0\r\n\r\n")
