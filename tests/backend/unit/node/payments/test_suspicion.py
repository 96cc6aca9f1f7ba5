"""Bad signatures cost their sender more than the node, wherever they are sent to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import SigningKey
from assay.node.errors import PaymentError, Unavailable
from assay.node.payments.suspicion import BURST, PER_SECOND, Suspicion
from assay.node.payments.terms import Terms
from assay.node.service import Service
from assay.types import Voucher

from tests.backend.unit.node.payments.test_gate import DOMAIN, NODE, PRICE, VERSION, Desk

STRANGER = SigningKey(b"\x0a" * 32).address


def signed() -> bool:
    return True


def not_signed() -> bool:
    return False


def test_check__bad_signatures__stops_their_sender_alone_for_a_while() -> None:
    now = [0.0]
    suspicion = Suspicion(lambda: now[0])
    for _ in range(BURST):
        suspicion.check("a", not_signed)
        suspicion.note("a")
    with pytest.raises(Unavailable) as refused:
        suspicion.check("a", not_signed)
    assert refused.value.code == "busy"
    suspicion.check("b", not_signed)
    suspicion.check("", not_signed)
    now[0] = 1.5 / PER_SECOND
    suspicion.check("a", not_signed)


def test_check__neighbour_of_who_sends_bad_signatures__is_let_through_by_its_own() -> None:
    suspicion = Suspicion(lambda: 0.0)
    for _ in range(BURST):
        suspicion.note("proxy")
    suspicion.check("proxy", signed)


@pytest.mark.network  # an event loop needs a socket pair
def test_acknowledge__bad_signatures__are_counted_like_those_of_requests(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    parts: dict[str, Any] = dict.fromkeys(("pool", "metrics", "writer"))
    catalog: Any = SimpleNamespace(get=lambda version_id: SimpleNamespace(version_id=version_id))
    service = Service(
        domain=DOMAIN,
        node=NODE,
        signer=NODE,
        catalog=catalog,
        follower=desk.follower,
        gate=desk.gate,
        log=desk.log,
        max_elements=1,
        **parts,
    )
    service.suspicion = Suspicion(lambda: 0.0)
    key = SigningKey(b"\x0b" * 32)
    voucher = Voucher(key.address, NODE, VERSION, PRICE, 0)
    signed_by_its_account = Terms(key.address, voucher, key.sign(voucher_digest(DOMAIN, voucher)))
    forged = Terms(STRANGER, Voucher(STRANGER, NODE, VERSION, PRICE, 0), b"\x01" * 65)

    async def scenario() -> None:
        for _ in range(BURST):
            with pytest.raises(PaymentError):
                await service.acknowledge(forged, peer="192.0.2.1")
        with pytest.raises(Unavailable, match="were bad of late"):
            await service.acknowledge(forged, peer="192.0.2.1")
        with pytest.raises(PaymentError):
            await service.acknowledge(forged, peer="192.0.2.2")
        with pytest.raises(Unavailable) as caught:  # for the chain, which this desk has not seen
            await service.acknowledge(signed_by_its_account, peer="192.0.2.1")
        assert caught.value.code == "not_ready"

    asyncio.run(scenario())
    desk.log.close()
