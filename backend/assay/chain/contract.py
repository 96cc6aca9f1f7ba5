"""What every contract object shares. Views answer values (at `block`); writes answer a `Call` for `Sender`.

`contract.view(name, *args)` is a `Read` that `read_many` sends with others in one JSON-RPC batch:

    channel, escrow = read_many(client, [s.view("channel", c, n, v), s.view("escrows", c, n)], block=number)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from assay.chain.client import BlockId, ChainClient
from assay.chain.deployments import Deployment
from assay.chain.values import Call, EventData, LogReceipt
from assay.types import Address


@dataclass(frozen=True, slots=True)
class Read:
    """One `eth_call` with what its bytes mean."""

    to: Address
    data: bytes
    parse: Callable[[bytes], Any]


def read_many(client: ChainClient, reads: Sequence[Read], block: BlockId = "latest") -> list[Any]:
    """All at one block, in JSON-RPC batches. With a tag, a new block may fall between batches."""
    answers = client.call_many([(read.to, read.data) for read in reads], block)
    return [read.parse(answer) for read, answer in zip(reads, answers, strict=True)]


class Contract:
    """A deployed contract. `RESULTS` says what class a view's tuple becomes."""

    NAME: ClassVar[str]
    RESULTS: ClassVar[dict[str, type]] = {}

    def __init__(self, client: ChainClient, deployment: Deployment) -> None:
        self.client = client
        self.deployment = deployment
        self.address = deployment.address(self.NAME)
        self.abi = deployment.contract_abi(self.NAME)

    def view(self, name: str, *args: Any) -> Read:
        """A view by its ABI name, not yet asked."""
        result = self.RESULTS.get(name)

        def parse(data: bytes) -> Any:
            value = self.abi.decode_result(name, data, len(args))
            if result is None:
                return value
            return result(*value) if isinstance(value, tuple) else result(value)

        return Read(self.address, self.abi.encode_call(name, args), parse)

    def read(self, name: str, *args: Any, block: BlockId = "latest") -> Any:
        """Ask one view now."""
        view = self.view(name, *args)
        return view.parse(self.client.call(view.to, view.data, block))

    def write(self, name: str, *args: Any, label: str = "") -> Call:
        """A state-changing call by its ABI name."""
        return Call(self.address, self.abi.encode_call(name, args), label or f"{self.NAME}.{name}")

    def decode_log(self, log: LogReceipt) -> EventData:
        """Raises `FatalError` on a log that the ABI does not explain."""
        return self.abi.decode_log(log)

    def decode_logs(self, logs: Sequence[LogReceipt]) -> list[EventData]:
        """This contract's events among a transaction's logs."""
        return [self.abi.decode_log(log) for log in logs if log["address"].lower() == self.address.lower()]
