# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title The modules' pure functions, callable
@license GNU Affero General Public License v3.0 only
@notice Lets the test vectors reach `merkle`, `receipts` and `signatures`.
@custom:security For tests only.
"""


from ..interfaces import ISettlement
from ..modules import merkle
from ..modules import receipts
from ..modules import signatures


@external
@pure
def root(data: bytes32, siblings: DynArray[bytes32, 32], index: uint256) -> bytes32:
    """
    @notice The Merkle root that a leaf's bytes lead to; zero if the index lies outside the tree.
    @param data The leaf's bytes.
    @param siblings From the leaf up.
    @param index The leaf's place.
    """
    return merkle._root(merkle._leaf_hash(data), siblings, index)


@external
@pure
def node_hash(left: bytes32, right: bytes32) -> bytes32:
    """
    @notice The hash of an inner node.
    @param left Left child.
    @param right Right child.
    """
    return merkle._node_hash(left, right)


@external
@pure
def receipt_digest(domain_separator: bytes32, receipt: ISettlement.Receipt) -> bytes32:
    """
    @notice A receipt's EIP-712 digest in a domain.
    @param domain_separator The domain.
    @param receipt The receipt.
    """
    return receipts._digest(domain_separator, receipts._receipt_hash(receipt))


@external
@pure
def voucher_digest(
    domain_separator: bytes32, consumer: address, node: address, version_id: bytes32, amount: uint256, count: uint256
) -> bytes32:
    """
    @notice A voucher's EIP-712 digest in a domain.
    @param domain_separator The domain.
    @param consumer Who pays.
    @param node Who is paid.
    @param version_id What for.
    @param amount Owed so far, in base units.
    @param count Receipts acknowledged so far.
    """
    return receipts._digest(
        domain_separator, receipts._voucher_hash(consumer, node, version_id, amount, count)
    )


@external
@pure
def batch_id(node: address, version_id: bytes32, receipts_root: bytes32) -> bytes32:
    """
    @notice The id of a batch.
    @param node Whose receipts.
    @param version_id Of which version.
    @param receipts_root Their Merkle root.
    """
    return receipts._batch_id(node, version_id, receipts_root)


@external
@pure
def is_signed_by(account: address, digest: bytes32, r: bytes32, vs: bytes32) -> bool:
    """
    @notice Whether an EIP-2098 signature is the account's.
    @param account Whose it should be.
    @param digest What was signed.
    @param r First word.
    @param vs Second word.
    """
    return signatures._is_signed_by(account, digest, r, vs)
