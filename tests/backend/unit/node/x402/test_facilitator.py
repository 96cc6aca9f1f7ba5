"""A facilitator's answer comes whole within its time, or is none."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from assay.commitments.authorizations import Authorization, TokenDomain
from assay.node.errors import Unavailable
from assay.node.x402.facilitator import FacilitatorClient, Settled
from assay.node.x402.wire import Payment, PaymentTerms
from assay.types import ZERO_ADDRESS, Hash32

TERMS = PaymentTerms(TokenDomain("Test Token", "1", 31337, ZERO_ADDRESS), ZERO_ADDRESS, 120)
PAYMENT = Payment(Authorization(ZERO_ADDRESS, ZERO_ADDRESS, 5, 0, 9, Hash32(bytes(32))), bytes(65))
BODY = b'{"success": true, "transaction": "0x12", "isValid": true}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY)


async def ask(pause: float, *, settle: bool) -> Settled | None:
    """Of a server whose every byte comes `pause` seconds after the one before."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for byte in HEAD + BODY:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = FacilitatorClient(f"http://127.0.0.1:{port}", TERMS, verify_seconds=0.3, settle_seconds=0.4)
        try:
            if settle:
                return await client.settle(PAYMENT)
            assert (await client.verify(PAYMENT)).is_valid
            return None
        finally:
            await client.close()
            await ended.wait()


@pytest.mark.network
def test_settle__answer_in_time__is_read() -> None:
    assert asyncio.run(ask(0, settle=True)) == Settled(True, "0x12")


@pytest.mark.network
@pytest.mark.parametrize(("settle", "seconds"), [(False, "0.3"), (True, "0.4")])
def test_post__every_byte_in_time_but_not_all_of_them__is_unavailable(settle: bool, seconds: str) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match=f"no whole answer within {seconds} s") as refused:
        asyncio.run(ask(0.1, settle=settle))
    assert refused.value.code == "payment_unavailable"
    assert time.monotonic() - started < 4
