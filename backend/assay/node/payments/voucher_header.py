"""A voucher beside a request instead of among its parameters: `Assay-Voucher` (SPEC.md §7). Pure.

{"consumer": address, "amount": decimal, "count": decimal, "signature": 0x hex}
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from assay.node.errors import InputError

NAME: Final = "assay-voucher"
"""In lower case, as gRPC's metadata and this node's HTTP headers have it."""
FIELDS: Final = ("consumer", "amount", "count", "signature")


def voucher_parameters(text: str | bytes | None) -> dict[str, Any]:
    """The header's fields as the request's `voucher_…` parameters, none without a header. Integers are taken
    for decimal strings; what is missing or malformed, `terms` finds. Raises InputError `input_voucher`."""
    if text is None:
        return {}
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"Assay-Voucher does not parse as JSON: {error}", code="input_voucher") from None
    if not isinstance(fields, dict):
        raise InputError("Assay-Voucher must be a JSON object", code="input_voucher")
    if unknown := [name for name in fields if name not in FIELDS]:
        raise InputError(
            f"Assay-Voucher has a field {unknown[0][:40]!r}; it takes {', '.join(FIELDS)}",
            code="input_voucher",
        )
    if nested := [name for name, value in fields.items() if isinstance(value, list | dict)]:
        raise InputError(f"Assay-Voucher has no string in {nested[0]!r}", code="input_voucher")
    return {f"voucher_{name}": str(value) if type(value) is int else value for name, value in fields.items()}
