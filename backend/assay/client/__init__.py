"""The SDK for consumers: `Client.infer` pays, infers and checks the receipt; `verify_receipt` checks any
receipt.
"""

from assay.client.client import Client
from assay.client.errors import (
    BalanceShort,
    ChannelBlocked,
    EscrowShort,
    InputInvalid,
    ModelUnknown,
    NodeRefused,
    NodeUnreachable,
    NoNodes,
    NotSold,
    PaymentOpen,
    PaymentRefused,
    PriceTooHigh,
    ReceiptRefused,
    VersionRevoked,
)
from assay.client.escrow import AutoFund
from assay.client.requests import Pay
from assay.client.result import Result
from assay.client.verify import Report, Step, verify_receipt

__all__ = [
    "AutoFund",
    "BalanceShort",
    "ChannelBlocked",
    "Client",
    "EscrowShort",
    "InputInvalid",
    "ModelUnknown",
    "NoNodes",
    "NodeRefused",
    "NodeUnreachable",
    "NotSold",
    "Pay",
    "PaymentOpen",
    "PaymentRefused",
    "PriceTooHigh",
    "ReceiptRefused",
    "Report",
    "Result",
    "Step",
    "VersionRevoked",
    "verify_receipt",
]
