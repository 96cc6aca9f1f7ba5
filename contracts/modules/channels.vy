# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Channels: how far each consumer's vouchers to a node have been settled
@license GNU Affero General Public License v3.0 only
@notice Checks one voucher after the other and moves what it newly promises out of escrow. Rules: SPEC.md §6.
"""


from ..interfaces import IModelRegistry
from ..interfaces import ISettlement


from . import receipts
from . import signatures


from . import vault
uses: vault


# @dev Why a voucher is skipped.
STALE: constant(uint8) = 1
BAD_SIGNATURE: constant(uint8) = 2
NO_ESCROW: constant(uint8) = 3
COUNT_JUMP: constant(uint8) = 4


_MASK_24: constant(uint256) = 2**24 - 1
_MASK_40: constant(uint256) = 2**40 - 1
_MASK_96: constant(uint256) = 2**96 - 1
_MASK_160: constant(uint256) = 2**160 - 1
_MAX_COUNT_GROWTH: constant(uint256) = 2**32 - 1


# @dev Channel, in the low bits of an account: settled (96) | count (40) | line (24).
_SETTLED: constant(uint256) = 64
_CHANNEL_COUNT: constant(uint256) = 24


# @dev node -> version -> the node's line: its versions numbered from 1 as it posts the first batch of each.
_lines: HashMap[address, HashMap[bytes32, uint256]]
_line_counts: HashMap[address, uint256]
# @dev consumer -> node -> line -> channel. The channel used last stands in `vault.accounts`; its copy here is stale.
_channels: HashMap[address, HashMap[address, HashMap[uint256, uint256]]]


# @dev What all rows of a batch share.
struct Posting:
    batch_id: bytes32
    domain: bytes32
    node: address
    version_id: bytes32
    line: uint256


# @dev A row of either kind: an EOA's has `r` and `vs`, a wallet's has `signature`.
struct Row:
    consumer: address
    amount: uint256
    count: uint256
    is_wallet: bool
    r: bytes32
    vs: bytes32


@internal
@view
def _channel(consumer: address, node: address, version_id: bytes32) -> ISettlement.Channel:
    line: uint256 = self._lines[node][version_id]
    account: uint256 = self._switch(vault.accounts[consumer][node], consumer, node, line)
    return ISettlement.Channel(
        settled=convert(account >> _SETTLED & _MASK_96, uint128),
        count=convert(account >> _CHANNEL_COUNT & _MASK_40, uint64),
    )


@internal
def _line(models: IModelRegistry, node: address, version_id: bytes32) -> uint256:
    """
    @dev A line proves that its version exists: versions never vanish, so the registry is asked once.
    """
    line: uint256 = self._lines[node][version_id]
    if line == 0:
        assert staticcall models.version_exists(version_id), "settlement: version is unknown"
        line = self._line_counts[node] + 1
        assert line <= _MASK_24, "settlement: node has too many versions"
        self._line_counts[node] = line
        self._lines[node][version_id] = line
    return line


@internal
@view
def _switch(account: uint256, consumer: address, node: address, line: uint256) -> uint256:
    """
    @dev The account with the line's channel in its low bits, whichever was there.
    """
    if account & _MASK_24 == line:
        return account
    return account & ~_MASK_160 | self._channels[consumer][node][line] | line


@internal
def _settle(posting: Posting, row: Row, signature: Bytes[1024]) -> uint256:
    """
    @dev Settles one row, or skips it without changing anything. Returns amount paid (high) | count growth (64).
    """
    stored: uint256 = vault.accounts[row.consumer][posting.node]
    account: uint256 = self._switch(stored, row.consumer, posting.node, posting.line)
    settled: uint256 = account >> _SETTLED & _MASK_96
    growth: uint256 = unsafe_sub(row.amount, settled)
    count_growth: uint256 = unsafe_sub(row.count, account >> _CHANNEL_COUNT & _MASK_40)
    # a difference that wrapped is greater than what it was taken from: amount or count fell
    if growth > row.amount or count_growth > row.count or growth | count_growth == 0:
        return self._skip(posting, row, STALE)
    if not self._is_signed(posting, row, signature):
        return self._skip(posting, row, BAD_SIGNATURE)
    room: uint256 = min(account >> vault.BALANCE, unsafe_sub(vault.MAX_AMOUNT, settled))
    if growth != 0 and room == 0:
        return self._skip(posting, row, NO_ESCROW)
    if count_growth > _MAX_COUNT_GROWTH or row.count > _MASK_40:
        return self._skip(posting, row, COUNT_JUMP)
    paid: uint256 = min(growth, room)
    # no field overflows into its neighbour: paid <= balance, settled + paid < 2**96, count < 2**40
    vault.accounts[row.consumer][posting.node] = unsafe_add(
        unsafe_sub(account, paid << vault.BALANCE), paid << _SETTLED | count_growth << _CHANNEL_COUNT
    )
    if stored & _MASK_24 != posting.line:
        self._channels[row.consumer][posting.node][stored & _MASK_24] = stored & _MASK_160
    return paid << 64 | count_growth


@internal
@view
def _is_signed(posting: Posting, row: Row, signature: Bytes[1024]) -> bool:
    struct_hash: bytes32 = receipts._voucher_hash(
        row.consumer, posting.node, posting.version_id, row.amount, row.count
    )
    digest: bytes32 = receipts._digest(posting.domain, struct_hash)
    if row.is_wallet:
        return signatures._is_approved_by(row.consumer, digest, signature)
    return signatures._is_signed_by(row.consumer, digest, row.r, row.vs)


@internal
def _skip(posting: Posting, row: Row, reason: uint8) -> uint256:
    log ISettlement.VoucherSkipped(
        batch_id=posting.batch_id, consumer=row.consumer, amount=row.amount, count=row.count, reason=reason
    )
    return 0
