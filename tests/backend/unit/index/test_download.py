"""Which addresses the index will connect to, and which bits of a bloom it looks for."""

from __future__ import annotations

import pytest
from assay.index.bloom import bloom_mask
from assay.index.download import Unreachable, check_scheme, is_public


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_is_public__address_of_the_internet__is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.0.1",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
    ],
)
def test_is_public__loopback_private_or_special__is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url", ["file:///x", "gopher://a", "http://", "http://u@h", "http://h:99999", "http://é"]
)
def test_check_scheme__not_plain_http__is_refused(url: str) -> None:
    with pytest.raises(Unreachable):
        check_scheme(url)


def test_bloom_mask__known_address__sets_the_bits_of_the_yellow_paper() -> None:
    # keccak256 of it begins bd2b 01af cd27; the low 11 bits of each pair are 1323, 431 and 1319
    mask = bloom_mask(bytes.fromhex("0f572e5295c57f15886f9b263e2f6d2d6c7b5ec6"))
    assert [bit for bit in range(2048) if mask >> bit & 1] == [431, 1319, 1323]
