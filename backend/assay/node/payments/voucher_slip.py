"""What differs between two requests of a consumer: the three values of a voucher, cut out of the JSON. Pure.

The rest of the JSON is the same again and again, so that it is parsed and checked once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from assay.commitments.parsing import FieldError, parse_address
from assay.node.receipts.entries import HeldVoucher
from assay.types import Address

_VALUES: Final = re.compile(
    rb'"voucher_amount": ?"(0|[1-9][0-9]{0,37})", ?"voucher_count": ?"(0|[1-9][0-9]{0,18})",'
    rb' ?"voucher_signature": ?"0x([0-9a-f]{130})"'
)
"""As clients write them. An amount of 38 digits fits 128 bits, a count of 19 fits 64: others are left to
`parse_terms`, which refuses what does not."""
_GAP: Final = b"\0"
"""Stands where the values were: no JSON has such a byte."""
CONSUMER: Final = "voucher_consumer"
NAMES: Final = ("voucher_amount", "voucher_count", "voucher_signature")


def cut(raw: bytes) -> tuple[bytes, HeldVoucher] | None:
    """(the JSON without a voucher's values, the values), if they stand there as clients write them."""
    found = _VALUES.search(raw)
    if found is None:
        return None
    amount, count, signature = found.groups()
    voucher = HeldVoucher(int(amount), int(count), bytes.fromhex(signature.decode()))
    return raw[: found.start()] + _GAP + raw[found.end() :], voucher


def consumer_of(raw: bytes, voucher: HeldVoucher, parameters: Mapping[str, Any]) -> Address | None:
    """The consumer whom JSON names that was cut, `parameters` being what it parses to; None if the values cut
    out are not, in every JSON that leaves the same, those of its voucher: nothing is to be remembered."""
    if b"\\" in raw or raw.count(b"voucher_") != 4:
        return None
    told = [parameters.get(name) for name in NAMES]
    if told != [str(voucher.amount), str(voucher.count), "0x" + voucher.signature.hex()]:
        return None
    try:
        return parse_address(parameters.get(CONSUMER), CONSUMER)
    except FieldError:
        return None
