"""What a load is to be, and what came of it; both cross a process boundary as pickles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from assay.commitments.receipts import voucher_digest
from assay.commitments.signing import SigningKey
from assay.types import Address, Domain, Hash32, Voucher

from scripts.benches.load.wire import InferRequest

Buffers = Sequence[bytes]


@dataclass(frozen=True)
class Payer:
    """A consumer whose n-th voucher pays for n requests and acknowledges the n - 1 before. `first`: the next
    n."""

    secret: bytes = field(repr=False)
    first: int = 1


@dataclass(frozen=True)
class Payment:
    """Who pays whom for what; `price` in base units."""

    domain: Domain
    node: Address
    version_id: Hash32
    price: int
    payers: tuple[Payer, ...]
    requests: int
    """Vouchers that each payer signs before the clock runs: the most requests that it sends."""
    behind: int = 0
    """Receipts that it may not have yet when it sends the next request: of requests under way beside it."""

    def sign(self, key: SigningKey, number: int) -> dict[str, str]:
        """The request parameters of a payer's n-th voucher."""
        return self.sign_for(key, number * self.price, max(0, number - 1 - self.behind))

    def sign_for(self, key: SigningKey, amount: int, count: int) -> dict[str, str]:
        """The request parameters of a voucher."""
        digest = voucher_digest(self.domain, Voucher(key.address, self.node, self.version_id, amount, count))
        return {
            "voucher_consumer": key.address,
            "voucher_amount": str(amount),
            "voucher_count": str(count),
            "voucher_signature": "0x" + key.sign(digest).hex(),
        }


@dataclass(frozen=True)
class Plan:
    """Load on 127.0.0.1:`port`. Without `rate` each connection sends its next request when it has its last
    answer; with it, so many a second are due at even distances, whatever the server does, and a request's
    time counts from when it was due."""

    port: int
    seconds: float
    connections: int = 16
    warmup_seconds: float = 0.3
    rate: float | None = None
    fixed: Buffers = ()
    """The request, if all are the same."""
    is_grpc: bool = False
    """Whether `fixed` is a gRPC call (header block and message), not an HTTP request."""
    infer: InferRequest | None = None
    payment: Payment | None = None
    """With a payer for each connection, or else with payers who take turns, whichever connection is free."""

    def streams(self) -> list[Iterator[Buffers]]:
        """Each connection's requests, made and signed now."""
        if self.payment is None:
            fixed = self.infer.render({}) if self.infer else self.fixed
            return [_endless(fixed)] * self.connections
        if self.infer is None:
            raise ValueError("a paid load needs an inference")
        own = [_paid(self.infer, self.payment, payer) for payer in self.payment.payers]
        if len(own) == self.connections:
            return [iter(requests) for requests in own]
        return [chain.from_iterable(zip(*own, strict=True))] * self.connections


def _endless(request: Buffers) -> Iterator[Buffers]:
    while True:
        yield request


def _paid(infer: InferRequest, payment: Payment, payer: Payer) -> list[Buffers]:
    key = SigningKey(payer.secret)
    numbers = range(payer.first, payer.first + payment.requests)
    return [infer.render(payment.sign(key, number)) for number in numbers]


@dataclass(frozen=True)
class Load:
    """What was measured after the warm-up; times in seconds. At least one request was answered in it."""

    seconds: float
    times: np.ndarray[tuple[int], np.dtype[np.float64]] = field(repr=False)
    """Of each request that was answered with 200, in the order of the answers."""
    statuses: dict[int, int]
    """How often each status came, the warm-up's included."""
    sent: tuple[int, ...]
    """By each connection, the warm-up's included."""
    busy: float
    """Processor time of the generator, of one core."""
    ran_out: bool = False
    """Whether a payer had no vouchers left before the time was over."""
    refusal: bytes = b""
    """The first answer that was not a 200."""
    last: tuple[bytes, ...] = ()
    """Each connection's last answer."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.times) / self.seconds

    def percentile(self, percent: float) -> float:
        """Nearest rank, in milliseconds."""
        return percentile(self.times, percent) * 1e3


def percentile(times: np.ndarray[tuple[int], np.dtype[np.float64]], percent: float) -> float:
    """The smallest of `times` that at least `percent` of them do not exceed. Raises ValueError on none."""
    if not len(times):
        raise ValueError("no request was answered in the time measured")
    return float(np.percentile(times, percent, method="inverted_cdf"))
