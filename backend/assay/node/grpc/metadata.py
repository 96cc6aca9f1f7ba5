"""What calls carry in gRPC metadata: the operator's token, the offer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from assay.errors import RequestError
from assay.node.catalog import Served
from assay.node.grpc.statuses import Metadata
from assay.node.service import Service

AUTHORIZATION: Final = "authorization"
OFFER: Final = "assay-offer"


def metadata_value(metadata: Iterable[tuple[str, Any]] | None, name: str) -> str | None:
    """The first value of a text key."""
    for key, value in metadata or ():
        if key == name and isinstance(value, str):
            return value
    return None


def offer_metadata(service: Service, served: Served) -> Metadata:
    """What one inference costs and whom a voucher for it is signed to, as JSON; nothing while it is not
    offered."""
    try:
        admitted = service.admit_version(served, asked=False)
    except RequestError:
        return ()
    offer = {
        "node": service.node,
        "version_id": "0x" + served.version_id.hex(),
        "price": str(admitted.price),
        "assurance": served.assurance,
        "chain_id": service.domain.chain_id,
        "settlement": service.domain.settlement,
    }
    return ((OFFER, orjson.dumps(offer).decode()),)
