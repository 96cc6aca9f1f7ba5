"""What calls carry in gRPC metadata: the operator's token, the offer, what a refused request would cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote

import orjson

from assay.node.grpc.statuses import Metadata
from assay.node.models.catalog import Served
from assay.node.payments.pricing import offer_document, payment_document
from assay.node.remote_host import remote_host
from assay.node.service import Service
from assay.types import Address

AUTHORIZATION: Final = "authorization"
OFFER: Final = "assay-offer"
PAYMENT: Final = "assay-payment"


def metadata_value(metadata: Iterable[tuple[str, Any]] | None, name: str) -> str | None:
    """The first value of a text key."""
    for key, value in metadata or ():
        if key == name and isinstance(value, str):
            return value
    return None


def peer_host(peer: str) -> str:
    """Who asks, by grpc's `ipv4:host:port` or `ipv6:%5Bhost%5D:port`."""
    host = unquote(peer.partition(":")[2].rpartition(":")[0])
    return remote_host(host.strip("[]") or peer)


def offer_metadata(service: Service, served: Served) -> Metadata:
    """What one inference costs and whom a voucher for it is signed to, as JSON; nothing while it is not
    offered."""
    offer = offer_document(service, served)
    return () if offer is None else ((OFFER, orjson.dumps(offer).decode()),)


def payment_metadata(service: Service, served: Served, consumer: Address | None) -> Metadata:
    """What would pay for a request that was refused for its payment, as HTTP has it in the body."""
    found = payment_document(service, served, consumer)
    return () if found is None else ((PAYMENT, orjson.dumps(found).decode()),)
