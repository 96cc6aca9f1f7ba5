"""Bounds what bad signatures cost: a wallet is asked on the chain whether it signed, and nobody pays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final

from assay.node.errors import Unavailable

BURST: Final = 20
PER_SECOND: Final = 5.0
REMEMBERED: Final = 4096


class Suspicion:
    """For each remote host, a bucket of bad signatures: `BURST` at once, `PER_SECOND` in the long run. While
    it is full, vouchers and payments from there are not looked at, but for those that an account's own key
    signed, which is known without asking anybody: behind a proxy all are one host. An empty name is no host,
    and is not checked."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def is_full(self, peer: str) -> bool:
        return bool(peer and self._spent and self._level(peer) >= BURST)

    def check(self, peer: str, is_by_account: Callable[[], bool]) -> None:
        """`is_by_account` is asked while the bucket is full. Raises Unavailable `busy`."""
        if self.is_full(peer) and not is_by_account():
            raise Unavailable(
                "this signature is no account's, and too many from this address were bad of late; check what "
                "you sign, or have your wallet's asked for again later",
                code="busy",
            )

    def note(self, peer: str) -> None:
        """A voucher or payment from there was not signed by whom it names."""
        if not peer:
            return
        self._spent[peer] = self._level(peer) + 1, self._clock()
        self._spent.move_to_end(peer)
        while len(self._spent) > REMEMBERED:
            self._spent.popitem(last=False)

    def _level(self, peer: str) -> float:
        level, at = self._spent.get(peer, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at) * PER_SECOND)
