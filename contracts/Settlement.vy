# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Settlement
@license GNU Affero General Public License v3.0 only
@notice Consumers fund escrow and sign cumulative vouchers; nodes post batches of receipts with those vouchers and
        collect after the dispute window. The owner can set a bounded fee and pause posting, nothing else: no exit
        and no finished record depends on it. Rules: SPEC.md §6.
"""


from ethereum.ercs import IERC20


from .interfaces import IModelRegistry
from .interfaces import INodeRegistry
from .interfaces import ISettlement
implements: ISettlement


from snekmate.auth import ownable
initializes: ownable


from snekmate.auth import ownable_2step
initializes: ownable_2step[ownable := ownable]


from snekmate.utils import eip712_domain_separator as eip712
initializes: eip712


from .modules import merkle
from .modules import receipts


from .modules import vault
initializes: vault


from .modules import channels
initializes: channels[vault := vault]


exports: (
    ownable_2step.owner,
    ownable_2step.pending_owner,
    ownable_2step.transfer_ownership,
    ownable_2step.accept_ownership,
    ownable_2step.renounce_ownership,
    eip712.eip712Domain,
    vault.token,
    vault.escrow_thaw_period,
    vault.total_liabilities,
    vault.claimable,
    vault.escrows,
    vault.fund,
    vault.fund_with_permit,
    vault.begin_thaw,
    vault.cancel_thaw,
    vault.withdraw,
    vault.claim,
)


MAX_BPS: constant(uint256) = 10_000
MAX_FEE_BPS: public(constant(uint256)) = 500
MAX_DISPUTE_WINDOW: public(constant(uint256)) = 365 * 86_400


# @dev What a receipt's standing is.
UNKNOWN: constant(uint8) = 0
PENDING: constant(uint8) = 1
FINAL: constant(uint8) = 2
VOID: constant(uint8) = 3


_MASK_16: constant(uint256) = 2**16 - 1
_MASK_40: constant(uint256) = 2**40 - 1
_MASK_48: constant(uint256) = 2**48 - 1
_MASK_64: constant(uint256) = 2**64 - 1


# @dev Batch: amount (128) | count (48) | posted_at (40) | fee_bps (16) | holds (16) | collected (8). Zero: unknown.
_AMOUNT: constant(uint256) = 128
_COUNT: constant(uint256) = 80
_POSTED_AT: constant(uint256) = 40
_FEE_BPS: constant(uint256) = 24
_HOLDS: constant(uint256) = 8
_COLLECTED: constant(uint256) = 1


# @dev Config: fee_bps (16) | paused (1).
_CONFIG_FEE_BPS: constant(uint256) = 1
_PAUSED: constant(uint256) = 1


models: public(immutable(IModelRegistry))
nodes: public(immutable(INodeRegistry))
# @dev The only account that can hold batches and void receipts; the zero address: nobody can.
dispute_game: public(immutable(address))
# @dev Seconds after posting within which a receipt can be disputed.
dispute_window: public(immutable(uint256))


# @dev Account that protocol fees are credited to.
treasury: public(address)
# @dev version -> receipts in collected batches.
settled_count: public(HashMap[bytes32, uint256])
# @dev The same, of versions with a program only, and none where no dispute can be brought.
verified_count: public(HashMap[bytes32, uint256])
# @dev receipt digest -> proven wrong.
is_void: public(HashMap[bytes32, bool])


_config: uint256
_batches: HashMap[bytes32, uint256]
# @dev consumer -> node -> version -> given back by `void`, in base units; never more than the channel has settled.
_refunded: HashMap[address, HashMap[address, HashMap[bytes32, uint256]]]


@deploy
def __init__(
    token_: IERC20,
    models_: IModelRegistry,
    nodes_: INodeRegistry,
    dispute_game_: address,
    owner_: address,
    treasury_: address,
    fee_bps_: uint16,
    dispute_window_: uint256,
    escrow_thaw_period_: uint256,
):
    """
    @param token_ ERC-20 that everything is paid in.
    @param models_ Registry of models and royalties.
    @param nodes_ Registry of nodes, their stake and signers.
    @param dispute_game_ Contract that may hold and void; zero: nobody.
    @param owner_ Account that may set the fee and the treasury and pause posting.
    @param treasury_ Account that fees are credited to.
    @param fee_bps_ Protocol fee in basis points, at most 500.
    @param dispute_window_ Seconds from posting to finality.
    @param escrow_thaw_period_ Seconds from `begin_thaw` to `withdraw`.
    """
    ownable.__init__()
    ownable_2step.__init__()
    eip712.__init__("Assay", "1")
    vault.__init__(token_, escrow_thaw_period_)
    assert owner_ != empty(address), "settlement: owner is the zero address"
    assert models_.address.is_contract, "settlement: model registry has no code"
    assert nodes_.address.is_contract, "settlement: node registry has no code"
    assert dispute_window_ <= MAX_DISPUTE_WINDOW, "settlement: dispute window is over 365 days"
    models = models_
    nodes = nodes_
    dispute_game = dispute_game_
    dispute_window = dispute_window_
    self._set_fee_bps(convert(fee_bps_, uint256))
    self._set_treasury(treasury_)
    ownable_2step._transfer_ownership(owner_)


# ------------------------------------------------------------------------------------------------------------
#                                                nodes
# ------------------------------------------------------------------------------------------------------------


@external
def post_batch(
    node: address,
    version_id: bytes32,
    receipts_root: bytes32,
    vouchers: DynArray[ISettlement.Voucher, 128],
    wallet_vouchers: DynArray[ISettlement.WalletVoucher, 32],
) -> bytes32:
    """
    @notice Posts the root of a node's receipts for one version and takes what the vouchers newly promise out of
            their consumers' escrow. A voucher that fails is skipped with a `VoucherSkipped`; the rest stands.
    @param node Node that the receipts are by; the caller is its operator or current signer.
    @param version_id Model version that the receipts are for.
    @param receipts_root Merkle root over the receipts' digests.
    @param vouchers Vouchers of consumers that are plain accounts.
    @param wallet_vouchers Vouchers of consumers that are contracts.
    @return The batch's id.
    """
    config: uint256 = self._config
    assert config & _PAUSED == 0, "settlement: posting is paused"
    self._check_poster(node)
    assert receipts_root != empty(bytes32), "settlement: receipts root is zero"
    batch_id: bytes32 = receipts._batch_id(node, version_id, receipts_root)
    assert self._batches[batch_id] == 0, "settlement: batch is already posted"
    posting: channels.Posting = channels.Posting(
        batch_id=batch_id,
        domain=eip712._domain_separator_v4(),
        node=node,
        version_id=version_id,
        line=channels._line(models, node, version_id),
    )
    total: uint256 = 0
    for voucher: ISettlement.Voucher in vouchers:
        row: channels.Row = channels.Row(
            consumer=voucher.consumer,
            amount=convert(voucher.amount, uint256),
            count=convert(voucher.count, uint256),
            is_wallet=False,
            r=voucher.r,
            vs=voucher.vs,
        )
        total = unsafe_add(total, channels._settle(posting, row, b""))
    for voucher: ISettlement.WalletVoucher in wallet_vouchers:
        row: channels.Row = channels.Row(
            consumer=voucher.consumer,
            amount=convert(voucher.amount, uint256),
            count=convert(voucher.count, uint256),
            is_wallet=True,
            r=empty(bytes32),
            vs=empty(bytes32),
        )
        total = unsafe_add(total, channels._settle(posting, row, voucher.signature))
    amount: uint256 = total >> 64
    count: uint256 = total & _MASK_64
    self._batches[batch_id] = (
        amount << _AMOUNT
        | count << _COUNT
        | block.timestamp << _POSTED_AT
        | config >> _CONFIG_FEE_BPS << _FEE_BPS
    )
    log ISettlement.BatchPosted(
        batch_id=batch_id, node=node, version_id=version_id, receipts_root=receipts_root, amount=amount, count=count
    )
    return batch_id


# ------------------------------------------------------------------------------------------------------------
#                                                permissionless
# ------------------------------------------------------------------------------------------------------------


@external
def collect(keys: DynArray[ISettlement.BatchKey, 64]) -> uint256:
    """
    @notice Splits final batches between node, model publisher and protocol. Anyone may trigger it.
    @param keys What the batches' ids commit to.
    @return Sum of the batches' amounts, in base units.
    """
    total: uint256 = 0
    for key: ISettlement.BatchKey in keys:
        total += self._collect(key)
    return total


# ------------------------------------------------------------------------------------------------------------
#                                                dispute game
# ------------------------------------------------------------------------------------------------------------


@external
def hold(batch_id: bytes32):
    """
    @notice Keeps a pending batch from being collected while a dispute is open. Holds are counted.
    @param batch_id The batch.
    """
    self._check_dispute_game()
    batch: uint256 = self._pending_batch(batch_id)
    holds: uint256 = (batch >> _HOLDS & _MASK_16) + 1
    assert holds <= _MASK_16, "settlement: batch has too many holds"
    self._batches[batch_id] = batch + (1 << _HOLDS)
    log ISettlement.BatchHeld(batch_id=batch_id, holds=holds)


@external
def release(batch_id: bytes32):
    """
    @notice Takes back one hold.
    @param batch_id The batch.
    """
    self._check_dispute_game()
    batch: uint256 = self._batches[batch_id]
    holds: uint256 = batch >> _HOLDS & _MASK_16
    assert holds != 0, "settlement: batch is not held"
    self._batches[batch_id] = batch - (1 << _HOLDS)
    log ISettlement.BatchReleased(batch_id=batch_id, holds=holds - 1)


@external
def void(batch_id: bytes32, receipt: ISettlement.Receipt) -> uint256:
    """
    @notice Marks a receipt as proven wrong, once, and gives its price back to its consumer's escrow out of the batch.
    @param batch_id The pending batch that the receipt is in; zero if it is in none, which marks the digest only.
    @param receipt The receipt.
    @return What was given back, in base units.
    """
    self._check_dispute_game()
    digest: bytes32 = self._receipt_digest(receipt)
    assert not self.is_void[digest], "settlement: receipt is already void"
    self.is_void[digest] = True
    amount: uint256 = 0
    if batch_id != empty(bytes32):
        amount = self._refund(batch_id, receipt)
    log ISettlement.ReceiptVoided(batch_id=batch_id, digest=digest, consumer=receipt.consumer, amount=amount)
    return amount


# ------------------------------------------------------------------------------------------------------------
#                                                owner
# ------------------------------------------------------------------------------------------------------------


@external
def set_fee_bps(fee_bps: uint16):
    """
    @notice Sets the protocol fee of batches posted from now on.
    @param fee_bps In basis points, at most 500.
    """
    ownable._check_owner()
    self._set_fee_bps(convert(fee_bps, uint256))


@external
def set_treasury(treasury: address):
    """
    @notice Sets the account that fees of batches collected from now on are credited to.
    @param treasury The account; not zero.
    """
    ownable._check_owner()
    self._set_treasury(treasury)


@external
def set_paused(paused: bool):
    """
    @notice Stops or resumes `post_batch`, and nothing else.
    @param paused Whether posting is paused.
    """
    ownable._check_owner()
    self._config = self._config & ~_PAUSED | convert(paused, uint256)
    log ISettlement.PausedChanged(paused=paused)


# ------------------------------------------------------------------------------------------------------------
#                                                views
# ------------------------------------------------------------------------------------------------------------


@external
@view
def fee_bps() -> uint16:
    """
    @notice The protocol fee of batches posted now, in basis points.
    """
    return convert(self._config >> _CONFIG_FEE_BPS, uint16)


@external
@view
def paused() -> bool:
    """
    @notice Whether `post_batch` is paused.
    """
    return self._config & _PAUSED != 0


@external
@view
def channel(consumer: address, node: address, version_id: bytes32) -> ISettlement.Channel:
    """
    @notice How far the vouchers of a channel have been settled.
    @param consumer Account that signs the vouchers.
    @param node Node that they pay.
    @param version_id Model version that they are for.
    @return Amount paid so far in base units, and receipts acknowledged so far.
    """
    return channels._channel(consumer, node, version_id)


@external
@view
def batches(batch_id: bytes32) -> ISettlement.Batch:
    """
    @notice A batch; all zero if there is none of that id.
    @param batch_id The batch.
    """
    batch: uint256 = self._batches[batch_id]
    return ISettlement.Batch(
        amount=convert(batch >> _AMOUNT, uint128),
        count=convert(batch >> _COUNT & _MASK_48, uint64),
        posted_at=convert(batch >> _POSTED_AT & _MASK_40, uint64),
        fee_bps=convert(batch >> _FEE_BPS & _MASK_16, uint16),
        holds=convert(batch >> _HOLDS & _MASK_16, uint16),
        collected=batch & _COLLECTED != 0,
    )


@external
@view
def receipt_status(
    batch_id: bytes32, receipt: ISettlement.Receipt, siblings: DynArray[bytes32, 32], index: uint256
) -> uint8:
    """
    @notice Whether a receipt is in a batch and what became of it.
    @param batch_id The batch.
    @param receipt The receipt.
    @param siblings The receipt's Merkle proof, from the leaf up.
    @param index The receipt's place in the batch, from 0.
    @return 0 UNKNOWN (no such batch, or the proof does not lead to it), 1 PENDING, 2 FINAL, 3 VOID.
    """
    batch: uint256 = self._batches[batch_id]
    if batch == 0:
        return UNKNOWN
    digest: bytes32 = self._receipt_digest(receipt)
    root: bytes32 = merkle._root(merkle._leaf_hash(digest), siblings, index)
    if receipts._batch_id(receipt.node, receipt.version_id, root) != batch_id:
        return UNKNOWN
    if self.is_void[digest]:
        return VOID
    return FINAL if self._is_final(batch) else PENDING


# @dev The three digest views are open during `post_batch`: a wallet may ask for the digest that it approves.
@external
@view
@reentrant
def receipt_digest(receipt: ISettlement.Receipt) -> bytes32:
    """
    @notice The EIP-712 digest that a node's signer signs.
    @param receipt The receipt.
    """
    return self._receipt_digest(receipt)


@external
@view
@reentrant
def voucher_digest(consumer: address, node: address, version_id: bytes32, amount: uint128, count: uint64) -> bytes32:
    """
    @notice The EIP-712 digest that a consumer signs.
    @param consumer Account that pays.
    @param node Node that is paid.
    @param version_id Model version that is paid for.
    @param amount Owed so far, in base units.
    @param count Receipts acknowledged so far.
    """
    struct_hash: bytes32 = receipts._voucher_hash(
        consumer, node, version_id, convert(amount, uint256), convert(count, uint256)
    )
    return receipts._digest(eip712._domain_separator_v4(), struct_hash)


@external
@view
@reentrant
def DOMAIN_SEPARATOR() -> bytes32:
    """
    @notice The EIP-712 domain separator on this chain.
    """
    return eip712._domain_separator_v4()


# ------------------------------------------------------------------------------------------------------------
#                                                internal
# ------------------------------------------------------------------------------------------------------------


@internal
@view
def _check_poster(node: address):
    signer: address = empty(address)
    active: bool = False
    signer, active = staticcall nodes.standing(node)
    assert msg.sender == node or msg.sender == signer, "settlement: caller is not the node's operator or signer"
    assert active, "settlement: node is not active"


@internal
@view
def _check_dispute_game():
    assert msg.sender == dispute_game, "settlement: caller is not the dispute game"


@internal
def _collect(key: ISettlement.BatchKey) -> uint256:
    batch_id: bytes32 = receipts._batch_id(key.node, key.version_id, key.receipts_root)
    batch: uint256 = self._batches[batch_id]
    assert batch != 0, "settlement: batch is unknown"
    assert batch & _COLLECTED == 0, "settlement: batch is already collected"
    assert batch >> _HOLDS & _MASK_16 == 0, "settlement: batch is held"
    assert self._is_final(batch), "settlement: dispute window is open"
    self._batches[batch_id] = batch | _COLLECTED
    amount: uint256 = batch >> _AMOUNT
    count: uint256 = batch >> _COUNT & _MASK_48
    payee: address = empty(address)
    royalty_bps: uint16 = 0
    program_root: bytes32 = empty(bytes32)
    payee, royalty_bps, program_root = staticcall models.royalty_info(key.version_id)
    # rounding goes against the claimants: the fee up, the royalty down, the node gets what is left
    fee: uint256 = (amount * (batch >> _FEE_BPS & _MASK_16) + MAX_BPS - 1) // MAX_BPS
    royalty: uint256 = amount * convert(royalty_bps, uint256) // MAX_BPS
    node_amount: uint256 = amount - fee - royalty
    vault.claimable[self.treasury] += fee
    vault.claimable[payee] += royalty
    vault.claimable[key.node] += node_amount
    self.settled_count[key.version_id] += count
    if program_root != empty(bytes32) and dispute_game != empty(address):
        self.verified_count[key.version_id] += count
    log ISettlement.BatchCollected(
        batch_id=batch_id,
        node=key.node,
        version_id=key.version_id,
        node_amount=node_amount,
        royalty=royalty,
        fee=fee,
        count=count,
    )
    return amount


@internal
def _refund(batch_id: bytes32, receipt: ISettlement.Receipt) -> uint256:
    """
    @dev A receipt for nobody (consumer zero) was paid by nobody: its batch loses the count, not the money. A node
         that signs for a friend cannot lead others' payments past royalty and fee: nobody gets back more than the
         channel paid.
    """
    batch: uint256 = self._pending_batch(batch_id)
    amount: uint256 = 0
    if receipt.consumer != empty(address):
        refunded: uint256 = self._refunded[receipt.consumer][receipt.node][receipt.version_id]
        channel: ISettlement.Channel = channels._channel(receipt.consumer, receipt.node, receipt.version_id)
        amount = min(convert(receipt.price, uint256), batch >> _AMOUNT)
        amount = min(amount, convert(channel.settled, uint256) - refunded)
        self._refunded[receipt.consumer][receipt.node][receipt.version_id] = refunded + amount
        vault._give_back(receipt.consumer, receipt.node, amount)
    count: uint256 = min(batch >> _COUNT & _MASK_48, 1)
    self._batches[batch_id] = batch - (amount << _AMOUNT) - (count << _COUNT)
    return amount


@internal
@view
def _pending_batch(batch_id: bytes32) -> uint256:
    batch: uint256 = self._batches[batch_id]
    assert batch != 0, "settlement: batch is unknown"
    assert not self._is_final(batch), "settlement: batch is final"
    return batch


@internal
@view
def _is_final(batch: uint256) -> bool:
    if batch >> _HOLDS & _MASK_16 != 0:
        return False
    return block.timestamp >= (batch >> _POSTED_AT & _MASK_40) + dispute_window


@internal
@view
def _receipt_digest(receipt: ISettlement.Receipt) -> bytes32:
    return receipts._digest(eip712._domain_separator_v4(), receipts._receipt_hash(receipt))


@internal
def _set_fee_bps(fee_bps: uint256):
    assert fee_bps <= MAX_FEE_BPS, "settlement: fee is over 500 bps"
    config: uint256 = self._config
    self._config = fee_bps << _CONFIG_FEE_BPS | config & _PAUSED
    log ISettlement.FeeChanged(old_bps=config >> _CONFIG_FEE_BPS, new_bps=fee_bps)


@internal
def _set_treasury(treasury: address):
    assert treasury != empty(address), "settlement: treasury is the zero address"
    log ISettlement.TreasuryChanged(old_treasury=self.treasury, new_treasury=treasury)
    self.treasury = treasury
