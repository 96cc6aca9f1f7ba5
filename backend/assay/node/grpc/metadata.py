"""What calls carry in gRPC metadata: a voucher, the operator's token, the offer. Pure but for the offer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from assay.errors import RequestError
from assay.node.catalog import Served
from assay.node.errors import InputError
from assay.node.grpc.statuses import Metadata
from assay.node.service import Service

VOUCHER: Final = "assay-voucher"
AUTHORIZATION: Final = "authorization"
OFFER: Final = "assay-offer"
VOUCHER_FIELDS: Final = ("consumer", "amount", "count", "signature")


def metadata_value(metadata: Iterable[tuple[str, Any]] | None, name: str) -> str | None:
    """The first value of a text key."""
    for key, value in metadata or ():
        if key == name and isinstance(value, str):
            return value
    return None


def voucher_parameters(metadata: Iterable[tuple[str, Any]] | None) -> dict[str, Any]:
    """The `voucher_…` parameters of an `assay-voucher` entry, none without it. Raises InputError."""
    text = metadata_value(metadata, VOUCHER)
    if text is None:
        return {}
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{VOUCHER} does not parse as JSON: {error}", code="input_voucher") from None
    if not isinstance(fields, dict):
        raise InputError(f"{VOUCHER} must be a JSON object", code="input_voucher")
    return {
        f"voucher_{name}": str(fields[name]) if type(fields[name]) is int else fields[name]
        for name in VOUCHER_FIELDS
        if name in fields
    }


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
