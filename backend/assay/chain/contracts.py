"""One thin typed object per contract: views answer values (at `block`), writes a `Call` for `Sender`."""

from assay.chain.contract import Contract, Read, read_many
from assay.chain.dispute_game import DisputeGame
from assay.chain.registries import ModelRegistry, NodeRegistry, Token
from assay.chain.settlement import Settlement, voucher_rows

__all__ = [
    "Contract",
    "DisputeGame",
    "ModelRegistry",
    "NodeRegistry",
    "Read",
    "Settlement",
    "Token",
    "read_many",
    "voucher_rows",
]
