"""Who pays for a request: its voucher, parsed from `parameters`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from assay.commitments.parsing import UINT64_MAX, FieldError, parse_address, parse_decimal, parse_hex
from assay.node.errors import PaymentError
from assay.node.receipts.entries import HeldVoucher
from assay.types import ZERO_ADDRESS, Address, Hash32, Voucher

MAX_SIGNATURE: Final = 1024
_FIELDS: Final = ("voucher_consumer", "voucher_amount", "voucher_count", "voucher_signature")
_NAMES: Final = frozenset(_FIELDS)
_CODE: Final = "input_voucher"


@dataclass(frozen=True, slots=True)
class Terms:
    """`voucher` None: an unpaid request, whose `consumer` is the zero address."""

    consumer: Address
    voucher: Voucher | None = None
    signature: bytes = b""

    @property
    def held(self) -> HeldVoucher | None:
        """The voucher as the log holds it, signed by an account."""
        voucher = self.voucher
        return None if voucher is None else HeldVoucher(voucher.amount, voucher.count, self.signature)


_UNPAID: Final = Terms(ZERO_ADDRESS)


def parse_terms(parameters: Mapping[str, Any], price: int, node: Address, version_id: Hash32) -> Terms:
    """Raises PaymentError `voucher_missing`, FieldError `input_voucher` for a malformed field.

    Only a signed voucher names a consumer: a name alone would let anybody advance somebody's sequence.
    """
    if not parameters.keys() & _NAMES:
        if price:
            raise PaymentError(
                f"this version costs {price} an inference; send {', '.join(_FIELDS)} in parameters",
                code="voucher_missing",
            )
        return _UNPAID
    return parse_voucher(parameters, _FIELDS, node, version_id)


def parse_voucher(
    data: Mapping[str, Any], names: tuple[str, str, str, str], node: Address, version_id: Hash32
) -> Terms:
    """A voucher from fields called `names` (consumer, amount, count, signature). Raises FieldError,
    PaymentError."""
    if missing := [name for name in names if name not in data]:
        raise PaymentError(
            f"{', '.join(missing)} is missing beside the voucher's other fields", code="voucher_missing"
        )
    consumer, amount, count, signature = (data[name] for name in names)
    raw = parse_hex(signature, names[3], code=_CODE)
    if not 65 <= len(raw) <= MAX_SIGNATURE:
        raise FieldError(names[3], f"expected 65 to {MAX_SIGNATURE} bytes, got {len(raw)}", code=_CODE)
    voucher = Voucher(
        consumer=parse_address(consumer, names[0], code=_CODE),
        node=node,
        version_id=version_id,
        amount=parse_decimal(amount, names[1], code=_CODE),
        count=parse_decimal(count, names[2], UINT64_MAX, code=_CODE),
    )
    return Terms(voucher.consumer, voucher, raw)
