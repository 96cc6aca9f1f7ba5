from __future__ import annotations

from typing import Any

import boa
from eth_abi import encode
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.contracts import ZERO, ZERO_HASH

UNKNOWN_ID = b"\x07" * 32


def test_models__unknown__is_empty(models: Any) -> None:
    assert tuple(models.models(UNKNOWN_ID)) == (ZERO, ZERO, ZERO, 0, "", "")


def test_versions__unknown__is_empty_with_status_zero(models: Any) -> None:
    assert tuple(models.versions(UNKNOWN_ID)) == (ZERO_HASH, 0, ZERO_HASH, ZERO_HASH, ZERO_HASH, 0, 0, 0, "")
    assert not models.version_exists(UNKNOWN_ID)


def test_royalty_info__unknown_version__reverts(models: Any) -> None:
    with boa.reverts("models: version does not exist"):
        models.royalty_info(UNKNOWN_ID)


@settings(max_examples=25, deadline=None)
@given(
    publisher=st.binary(min_size=20, max_size=20),
    name=st.text(alphabet=st.characters(max_codepoint=127), max_size=64),
    number=st.integers(0, 2**256 - 1),
)
def test_ids__anything__equal_keccak_of_the_abi_encoding(
    models: Any, publisher: bytes, name: str, number: int
) -> None:
    model_id = keccak(encode(["address", "string"], [publisher, name]))
    assert models.model_id_of("0x" + publisher.hex(), name) == model_id
    assert models.version_id_of(model_id, number) == keccak(
        encode(["bytes32", "uint256"], [model_id, number])
    )
