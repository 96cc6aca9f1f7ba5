"""What gas costs now, and how much of it a call needs."""

from __future__ import annotations

from assay.chain.client import ChainClient, hex_bytes
from assay.chain.transactions import Fees
from assay.chain.values import Call
from assay.errors import AssayError
from assay.types import Address

BASE_FEE_HEADROOM = 2
"""The base fee can double in six full blocks (EIP-1559: 12.5 % each)."""
GAS_MARGIN_PERCENT = 25
DEFAULT_PRIORITY_FEE = 1_000_000_000


def fetch_fees(client: ChainClient) -> Fees:
    """EIP-1559 fees by the endpoint's suggestion; legacy gas price where blocks have no base fee."""
    block, tip, price = client.batch(
        [
            ("eth_getBlockByNumber", ["latest", False]),
            ("eth_maxPriorityFeePerGas", []),
            ("eth_gasPrice", []),
        ],
        return_errors=True,
    )
    for answer in (block, price):
        if isinstance(answer, AssayError):
            raise answer
    if block.get("baseFeePerGas") is None:
        return Fees(int(price, 16), None)
    base = int(block["baseFeePerGas"], 16)
    priority = DEFAULT_PRIORITY_FEE if isinstance(tip, AssayError) else int(tip, 16)
    return Fees(BASE_FEE_HEADROOM * base + priority, priority)


def estimate_gas(client: ChainClient, sender: Address, call: Call, block: str = "latest") -> int:
    """Estimate plus 25 % plus the call's extra, within the block's gas limit.

    Raises `ContractRevert` with the reason.
    """
    transaction = {"from": sender, "data": hex_bytes(call.data), "value": hex(call.value)}
    if call.to is not None:
        transaction["to"] = call.to
    estimate = int(client.request("eth_estimateGas", [transaction, block]), 16)
    wanted = estimate * (100 + GAS_MARGIN_PERCENT) // 100 + call.extra_gas
    if wanted <= 1_000_000:
        return wanted
    return max(estimate, min(wanted, client.get_block().gas_limit))
