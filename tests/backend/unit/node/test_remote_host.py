"""Whom a node takes an address for."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from assay.node.remote_host import remote_host
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("::1", "::1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:/run/node", "unix:/run/node"),
    ],
)
def test_remote_host__address__is_one_host(address: str, host: str) -> None:
    assert remote_host(address) == host


@given(st.integers(1, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2))
def test_remote_host__one_network__one_host_however_it_names_itself(network: int, own: list[int]) -> None:
    hosts = {remote_host(str(IPv6Address(network << 64 | number))) for number in own}
    assert len(hosts) == 1
    assert remote_host(str(IPv6Address((network - 1) << 64 | own[0]))) not in hosts


@given(st.ip_addresses(v=4))
def test_remote_host__ipv4__plain_or_mapped_the_same(address: IPv4Address) -> None:
    mapped = ip_address(f"::ffff:{address}")
    assert remote_host(str(mapped)) == remote_host(str(address)) == str(address)
