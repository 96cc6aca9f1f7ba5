# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title What consumers and nodes sign
@license GNU Affero General Public License v3.0 only
@notice EIP-712 struct hashes of vouchers and receipts, and the identity of a batch. Bytes: SPEC.md §2 and §3.
"""


from ..interfaces import ISettlement


VOUCHER_TYPE_HASH: constant(bytes32) = keccak256(
    "Voucher(address consumer,address node,bytes32 versionId,uint128 amount,uint64 count)"
)
RECEIPT_TYPE_HASH: constant(bytes32) = keccak256(
    "Receipt(address node,address consumer,bytes32 versionId,bytes32 inputHash,bytes32 outputHash,uint128 price,uint64 sequence,uint64 executedAt)"
)


@internal
@pure
def _voucher_hash(consumer: address, node: address, version_id: bytes32, amount: uint256, count: uint256) -> bytes32:
    return keccak256(abi_encode(VOUCHER_TYPE_HASH, consumer, node, version_id, amount, count))


@internal
@pure
def _receipt_hash(receipt: ISettlement.Receipt) -> bytes32:
    return keccak256(abi_encode(RECEIPT_TYPE_HASH, receipt))


@internal
@pure
def _digest(domain_separator: bytes32, struct_hash: bytes32) -> bytes32:
    return keccak256(concat(0x1901, domain_separator, struct_hash))


@internal
@pure
def _batch_id(node: address, version_id: bytes32, receipts_root: bytes32) -> bytes32:
    return keccak256(abi_encode(node, version_id, receipts_root))
