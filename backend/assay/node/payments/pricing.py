"""What an inference costs and whom a voucher for it is signed to, before anything is paid (SPEC.md §7)."""

from __future__ import annotations

from typing import Any

from assay.errors import RequestError
from assay.node.models.catalog import Served
from assay.node.receipts.entries import ChannelKey
from assay.node.service import Service
from assay.types import Address


def offer_document(service: Service, served: Served) -> dict[str, Any] | None:
    """All that a voucher is signed over, but its amount and count; None while the version is not offered."""
    try:
        admitted = service.admit_version(served, asked=False)
    except RequestError:
        return None
    return {
        "node": service.node,
        "version_id": "0x" + served.version_id.hex(),
        "price": str(admitted.price),
        "assurance": served.assurance,
        "chain_id": service.domain.chain_id,
        "settlement": service.domain.settlement,
    }


def payment_document(service: Service, served: Served, consumer: Address | None) -> dict[str, Any] | None:
    """The offer, and how the consumer's channel stands, if it is known who asks: `charged` is what vouchers
    must cover for what was issued or is in work."""
    document = offer_document(service, served)
    if document is None or consumer is None:
        return document
    account = service.follower.known(consumer)
    channel = account.channels.get(served.version_id) if account else None
    if channel is None:
        return document
    return document | {
        "channel": {
            "consumer": consumer,
            "amount": str(channel.held_amount),
            "count": channel.held_count,
            "sequence": channel.issued,
            "charged": str(channel.charged),
            "settled": str(service.follower.settled(ChannelKey(served.version_id, consumer))),
        }
    }
