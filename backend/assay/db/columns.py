"""Column types: amounts that exceed 64 bits, hashes and addresses as the text that people read."""

from __future__ import annotations

from typing import Annotated, Any

from sqlalchemy import BigInteger, Dialect, String, Text
from sqlalchemy.orm import mapped_column
from sqlalchemy.types import TypeDecorator

AMOUNT_DIGITS = 39  # of 2^128 - 1
MAX_AMOUNT = 2**128 - 1


class AmountType(TypeDecorator[int]):
    """uint128 as 39 zero-padded digits: SQLite has no such integer, and padded text still sorts by value."""

    impl = String(AMOUNT_DIGITS)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if not 0 <= value <= MAX_AMOUNT:
            raise ValueError(f"amount {value} does not fit in uint128")
        return str(value).zfill(AMOUNT_DIGITS)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


Amount = Annotated[int, mapped_column(AmountType)]
BigInt = Annotated[int, mapped_column(BigInteger)]
HashText = Annotated[str, mapped_column(String(66))]
"""0x and 64 lower-case hexadecimal digits."""
AddressText = Annotated[str, mapped_column(String(42))]
"""EIP-55 checksummed."""
LongText = Annotated[str, mapped_column(Text)]


def clean_text(value: str) -> str:
    """Chain strings may hold anything; PostgreSQL refuses NUL and lone surrogates."""
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
