"""Who asks, as far as an address tells: whom places, queues and bad signatures are counted for. Pure."""

from __future__ import annotations

import functools
from ipaddress import AddressValueError, IPv6Address, IPv6Network
from typing import Final

PREFIX: Final = 64
"""Bits of an IPv6 address that a network has (RFC 4291 §2.5.4); the rest is for its owner to choose."""


@functools.lru_cache(4096)
def remote_host(address: str) -> str:
    """An IPv4 address as it is, also where it came mapped into IPv6; of another IPv6 address the network, or
    whoever owns one would be as many as he likes. What is no address stays as it is."""
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except AddressValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    if found.is_loopback:
        return str(found)
    return str(IPv6Network((int(found), PREFIX), strict=False))
