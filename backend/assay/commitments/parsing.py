"""Values from outside: addresses, hashes, amounts in JSON. Each parser names the field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from assay.commitments.identifiers import checksum_address
from assay.errors import RequestError
from assay.types import Address, Hash32

UINT32_MAX = (1 << 32) - 1
UINT64_MAX = (1 << 64) - 1
UINT128_MAX = (1 << 128) - 1
UINT256_MAX = (1 << 256) - 1
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)


class FieldError(RequestError):
    """A field of a document from outside is missing or wrong. `field` names it."""

    def __init__(self, field: str, problem: str, *, code: str = "field_invalid") -> None:
        super().__init__(f"{field}: {problem}", status=400, code=code)
        self.field = field


def get_field(data: Any, field: str, *, code: str = "field_invalid") -> Any:
    if not isinstance(data, Mapping):
        raise FieldError(field, f"expected an object around it, got {type(data).__name__}", code=code)
    if field not in data:
        raise FieldError(field, "is missing", code=code)
    return data[field]


def parse_hex(value: Any, field: str, *, code: str = "field_invalid") -> bytes:
    """Bytes of a 0x-prefixed hexadecimal string of any even length."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise FieldError(field, "expected 0x and an even number of hexadecimal digits", code=code)
    return bytes.fromhex(value[2:])


def parse_hash(value: Any, field: str, *, code: str = "field_invalid") -> Hash32:
    """32 bytes of a 0x-prefixed hexadecimal string."""
    raw = parse_hex(value, field, code=code)
    if len(raw) != 32:
        raise FieldError(field, f"expected 32 bytes, got {len(raw)}", code=code)
    return Hash32(raw)


def parse_signature(value: Any, field: str = "signature", *, code: str = "field_invalid") -> bytes:
    """65 bytes r ‖ s ‖ v of a 0x-prefixed hexadecimal string; `signing.recover` checks the rest."""
    raw = parse_hex(value, field, code=code)
    if len(raw) != 65:
        raise FieldError(field, f"expected 65 bytes, got {len(raw)}", code=code)
    return raw


def parse_address(value: Any, field: str, *, code: str = "field_invalid") -> Address:
    """Checksummed address; all-lower-case is taken, a wrong EIP-55 checksum is not."""
    if not isinstance(value, str):
        raise FieldError(field, f"expected an address string, got {type(value).__name__}", code=code)
    try:
        return checksum_address(value)
    except ValueError as error:
        raise FieldError(field, str(error), code=code) from None


def parse_decimal(value: Any, field: str, maximum: int = UINT128_MAX, *, code: str = "field_invalid") -> int:
    """Integer of a decimal string without sign or leading zeros, at most `maximum`."""
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise FieldError(field, "expected a decimal string without sign or leading zeros", code=code)
    return check_range(int(value), field, maximum, code=code)


def parse_integer(value: Any, field: str, maximum: int = UINT64_MAX, *, code: str = "field_invalid") -> int:
    """JSON integer (not a boolean) from 0 to `maximum`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError(field, f"expected an integer, got {type(value).__name__}", code=code)
    return check_range(value, field, maximum, code=code)


def check_range(value: int, field: str, maximum: int, *, code: str = "field_invalid") -> int:
    if not 0 <= value <= maximum:
        raise FieldError(field, f"must be from 0 to 2^{maximum.bit_length()} - 1", code=code)
    return value
