# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Node registry
@license GNU Affero General Public License v3.0 only
@notice Nodes stake, name the hot key that signs their receipts, and offer versions at a price. Stake leaves
        after a thaw; until it has left, the dispute game can slash it. Rules: SPEC.md §5.
"""


from ethereum.ercs import IERC20


from .interfaces import INodeRegistry
implements: INodeRegistry


from snekmate.auth import ownable
initializes: ownable


from snekmate.auth import ownable_2step
initializes: ownable_2step[ownable := ownable]


exports: (
    ownable_2step.owner,
    ownable_2step.pending_owner,
    ownable_2step.transfer_ownership,
    ownable_2step.accept_ownership,
    ownable_2step.renounce_ownership,
)


MAX_THAW_PERIOD: public(constant(uint256)) = 365 * 86_400


_MASK_40: constant(uint256) = 2**40 - 1
_MASK_96: constant(uint256) = 2**96 - 1
_MASK_128: constant(uint256) = 2**128 - 1
_MASK_160: constant(uint256) = 2**160 - 1


# @dev The stake token, an ERC-20.
token: public(immutable(address))
# @dev The only account that can slash and freeze; the zero address: nobody can.
dispute_game: public(immutable(address))
# @dev Stake below which a node is not active, in the token's base unit.
min_stake: public(immutable(uint96))
# @dev Seconds between `begin_unstake` and `withdraw`.
thaw_period: public(immutable(uint256))
# @dev An active node's packed standing is at least this: `min_stake` above the signer's bits, and never zero.
_THRESHOLD: immutable(uint256)


# @dev Whether `register` is paused. Nothing else can be.
paused: public(bool)


# @dev Stake and thawing stake of all nodes, in the token's base unit.
total_staked: public(uint256)


# @dev node -> signer (160 bits) | stake (96). Zero: not registered, because no signer is the zero address.
_standing: HashMap[address, uint256]
# @dev node -> thawing (96) | thaw_at (64) | frozen (32) | registered_at (64).
_exit: HashMap[address, uint256]
_endpoints: HashMap[address, String[256]]
# @dev signer -> node (160) | valid_from (40) | valid_to (40). Never erased: a key answers for what it signed.
_signers: HashMap[address, uint256]
# @dev node -> version -> price (128) | active (1).
_offers: HashMap[address, HashMap[bytes32, uint256]]


struct Exit:
    thawing: uint256
    thaw_at: uint256
    frozen: uint256
    registered_at: uint256


@deploy
def __init__(
    token_: IERC20, dispute_game_: address, owner: address, min_stake_: uint96, thaw_period_: uint256
):
    """
    @notice Fixes the stake token, the dispute game and the terms of staking for ever.
    @param token_ The stake token, a plain ERC-20 with code.
    @param dispute_game_ The only account that can slash and freeze; the zero address: nobody can.
    @param owner The account that may pause `register`; not the zero address.
    @param min_stake_ Stake below which a node is not active, in the token's base unit.
    @param thaw_period_ Seconds between `begin_unstake` and `withdraw`, at most 365 days.
    """
    assert token_.address.is_contract, "nodes: token has no code"
    assert owner != empty(address), "nodes: owner is the zero address"
    assert thaw_period_ <= MAX_THAW_PERIOD, "nodes: thaw period is above 365 days"
    ownable.__init__()
    ownable_2step.__init__()
    ownable._transfer_ownership(owner)
    token = token_.address
    dispute_game = dispute_game_
    min_stake = min_stake_
    thaw_period = thaw_period_
    _THRESHOLD = max(convert(min_stake_, uint256) << 160, 1)


# ------------------------------------------------------------------------------------------------------------
#                                                permissionless
# ------------------------------------------------------------------------------------------------------------


@external
def register(signer: address, endpoint: String[256]):
    """
    @notice Registers the caller as a node.
    @param signer Hot key that signs the node's receipts; never used by any node, nor another node's operator.
    @param endpoint Base URL of the node's HTTP interface; not empty.
    """
    assert not self.paused, "nodes: registration is paused"
    assert self._standing[msg.sender] == 0, "nodes: node is already registered"
    self._set_endpoint(endpoint)
    self._use_signer(signer)
    self._standing[msg.sender] = convert(signer, uint256)
    self._store_exit(msg.sender, Exit(thawing=0, thaw_at=0, frozen=0, registered_at=block.timestamp))
    log INodeRegistry.NodeRegistered(node=msg.sender, signer=signer, endpoint=endpoint)


@external
def stake(node: address, amount: uint256):
    """
    @notice Adds to a node's stake from the caller's tokens; the node gets what arrives.
    @param node A registered node. The stake belongs to its operator.
    @param amount Tokens to take from the caller, in the base unit.
    """
    standing: uint256 = self._check_registered(node)
    received: uint256 = self._pull(amount)
    assert received != 0, "nodes: nothing was received"
    exit: Exit = self._load_exit(node)
    new_stake: uint256 = (standing >> 160) + received
    assert new_stake + exit.thawing <= _MASK_96, "nodes: stake does not fit 96 bits"
    self._standing[node] = (standing & _MASK_160) | (new_stake << 160)
    self.total_staked += received
    log INodeRegistry.Staked(node=node, sender=msg.sender, amount=received, stake=new_stake)


# ------------------------------------------------------------------------------------------------------------
#                                                   operator
# ------------------------------------------------------------------------------------------------------------


@external
def set_endpoint(endpoint: String[256]):
    """
    @notice Changes where the caller's node is reached.
    @param endpoint Base URL of the node's HTTP interface; not empty.
    """
    self._check_registered(msg.sender)
    old_endpoint: String[256] = self._endpoints[msg.sender]
    self._set_endpoint(endpoint)
    log INodeRegistry.EndpointChanged(node=msg.sender, old_endpoint=old_endpoint, new_endpoint=endpoint)


@external
def rotate_signer(signer: address):
    """
    @notice Replaces the hot key. The old one stays answerable for receipts dated before this block.
    @param signer The new key; never used by any node, no other node's operator.
    """
    standing: uint256 = self._check_registered(msg.sender)
    self._use_signer(signer)
    old_signer: address = convert(standing & _MASK_160, address)
    self._signers[old_signer] |= block.timestamp << 200
    self._standing[msg.sender] = ((standing >> 160) << 160) | convert(signer, uint256)
    log INodeRegistry.SignerRotated(node=msg.sender, old_signer=old_signer, new_signer=signer)


@external
def begin_unstake(amount: uint256):
    """
    @notice Moves stake to thawing; all of what thaws can be withdrawn one thaw period from now.
    @param amount Stake to move, in the token's base unit. It stays slashable until it is withdrawn.
    """
    standing: uint256 = self._check_registered(msg.sender)
    assert amount != 0, "nodes: amount is zero"
    assert amount <= standing >> 160, "nodes: amount is above the stake"
    exit: Exit = self._load_exit(msg.sender)
    exit.thawing += amount
    exit.thaw_at = block.timestamp + thaw_period
    self._standing[msg.sender] = standing - (amount << 160)
    self._store_exit(msg.sender, exit)
    log INodeRegistry.UnstakeBegun(
        node=msg.sender, amount=amount, thawing=exit.thawing, thaw_at=convert(exit.thaw_at, uint64)
    )


@external
def cancel_unstake():
    """
    @notice Returns all that thaws to the caller's stake.
    """
    exit: Exit = self._load_exit(msg.sender)
    amount: uint256 = exit.thawing
    assert amount != 0, "nodes: nothing is thawing"
    exit.thawing = 0
    exit.thaw_at = 0
    self._standing[msg.sender] += amount << 160
    self._store_exit(msg.sender, exit)
    log INodeRegistry.UnstakeCancelled(node=msg.sender, amount=amount)


@external
def withdraw() -> uint256:
    """
    @notice Pays what has thawed to the caller.
    @return Tokens paid, in the base unit.
    """
    exit: Exit = self._load_exit(msg.sender)
    amount: uint256 = exit.thawing
    assert amount != 0, "nodes: nothing is thawing"
    assert block.timestamp >= exit.thaw_at, "nodes: stake is still thawing"
    assert exit.frozen == 0, "nodes: a dispute is open"
    exit.thawing = 0
    exit.thaw_at = 0
    self._store_exit(msg.sender, exit)
    self.total_staked -= amount
    log INodeRegistry.StakeWithdrawn(node=msg.sender, amount=amount)
    self._push(msg.sender, amount)
    return amount


@external
def offer(version_id: bytes32, price: uint128):
    """
    @notice Offers to serve a version; replaces the caller's earlier offer of it.
    @param version_id The version. Whether it exists is the reader's to check.
    @param price Price of one inference in the token's base unit; may be zero.
    """
    self._check_registered(msg.sender)
    self._offers[msg.sender][version_id] = convert(price, uint256) | (1 << 128)
    log INodeRegistry.OfferSet(node=msg.sender, version_id=version_id, price=price)


@external
def withdraw_offer(version_id: bytes32):
    """
    @notice Takes back the caller's offer of a version.
    @param version_id A version that the caller offers.
    """
    assert self._offers[msg.sender][version_id] != 0, "nodes: no such offer"
    self._offers[msg.sender][version_id] = 0
    log INodeRegistry.OfferWithdrawn(node=msg.sender, version_id=version_id)


# ------------------------------------------------------------------------------------------------------------
#                                                 dispute game
# ------------------------------------------------------------------------------------------------------------


@external
def slash(node: address, amount: uint256, recipient: address) -> uint256:
    """
    @notice Takes stake from a node, first what does not thaw, and pays it out.
    @param node A registered node.
    @param amount What to take, in the token's base unit; what is missing is not owed.
    @param recipient The account that is paid.
    @return What was taken: the amount, or all there is.
    """
    self._check_dispute_game()
    standing: uint256 = self._check_registered(node)
    exit: Exit = self._load_exit(node)
    from_stake: uint256 = min(amount, standing >> 160)
    from_thawing: uint256 = min(amount - from_stake, exit.thawing)
    exit.thawing -= from_thawing
    if exit.thawing == 0:
        exit.thaw_at = 0
    self._standing[node] = standing - (from_stake << 160)
    self._store_exit(node, exit)
    taken: uint256 = from_stake + from_thawing
    self.total_staked -= taken
    log INodeRegistry.Slashed(node=node, recipient=recipient, amount=taken)
    if taken != 0:
        self._push(recipient, taken)
    return taken


@external
def freeze(node: address):
    """
    @notice Counts one more open dispute of a node; it cannot withdraw until all are closed.
    @param node A registered node.
    """
    self._check_dispute_game()
    self._check_registered(node)
    exit: Exit = self._load_exit(node)
    exit.frozen += 1
    self._store_exit(node, exit)
    log INodeRegistry.Frozen(node=node, count=convert(exit.frozen, uint32))


@external
def unfreeze(node: address):
    """
    @notice Counts one open dispute of a node less.
    @param node A node with an open dispute.
    """
    self._check_dispute_game()
    exit: Exit = self._load_exit(node)
    assert exit.frozen != 0, "nodes: node is not frozen"
    exit.frozen -= 1
    self._store_exit(node, exit)
    log INodeRegistry.Unfrozen(node=node, count=convert(exit.frozen, uint32))


# ------------------------------------------------------------------------------------------------------------
#                                                    owner
# ------------------------------------------------------------------------------------------------------------


@external
def set_paused(paused: bool):
    """
    @notice Stops or resumes the registration of new nodes. Everything else goes on.
    @param paused True stops.
    """
    ownable._check_owner()
    self.paused = paused
    log INodeRegistry.PausedChanged(paused=paused)


# ------------------------------------------------------------------------------------------------------------
#                                                    views
# ------------------------------------------------------------------------------------------------------------


@external
@view
def nodes(node: address) -> INodeRegistry.Node:
    """
    @notice Shows a node; every field is empty if it is not registered.
    @param node The node.
    @return The node; stake in the token's base unit, times in Unix seconds, frozen = open disputes.
    """
    standing: uint256 = self._standing[node]
    exit: Exit = self._load_exit(node)
    return INodeRegistry.Node(
        signer=convert(standing & _MASK_160, address),
        stake=convert(standing >> 160, uint96),
        thawing=convert(exit.thawing, uint96),
        thaw_at=convert(exit.thaw_at, uint64),
        frozen=convert(exit.frozen, uint32),
        registered_at=convert(exit.registered_at, uint64),
        endpoint=self._endpoints[node],
    )


@external
@view
def is_active(node: address) -> bool:
    """
    @notice Tells whether a node may post batches: its stake, without what thaws, reaches the minimum.
    @param node The node.
    @return True if it may.
    """
    return self._standing[node] >= _THRESHOLD


@external
@view
@reentrant
def standing(node: address) -> (address, bool):
    """
    @notice Tells a node's signer and whether it is active, for one storage read.
    @param node The node.
    @return signer, active.
    """
    # @dev Safe to read during a token's callback: state is final before every payment out, and a payment in
    #      counts only afterwards.
    standing: uint256 = self._standing[node]
    return convert(standing & _MASK_160, address), standing >= _THRESHOLD


@external
@view
def signer_info(signer: address) -> (address, uint64, uint64):
    """
    @notice Tells which node a key signs or signed for, and when.
    @param signer The key's address.
    @return node, first second of validity, first second after it (0: still valid).
    """
    packed: uint256 = self._signers[signer]
    return (
        convert(packed & _MASK_160, address),
        convert((packed >> 160) & _MASK_40, uint64),
        convert(packed >> 200, uint64),
    )


@external
@view
def was_signer(node: address, signer: address, timestamp: uint64) -> bool:
    """
    @notice Tells whether a key was the node's signer at a time.
    @param node The node.
    @param signer The key's address.
    @param timestamp Unix seconds.
    @return True from the block that named the key until before the block that replaced it.
    """
    packed: uint256 = self._signers[signer]
    time: uint256 = convert(timestamp, uint256)
    valid_to: uint256 = packed >> 200
    return (
        packed != 0
        and convert(packed & _MASK_160, address) == node
        and (packed >> 160) & _MASK_40 <= time
        and (valid_to == 0 or time < valid_to)
    )


@external
@view
def offers(node: address, version_id: bytes32) -> INodeRegistry.Offer:
    """
    @notice Shows a node's offer of a version.
    @param node The node.
    @param version_id The version.
    @return price of one inference in the token's base unit, and whether the offer stands.
    """
    packed: uint256 = self._offers[node][version_id]
    return INodeRegistry.Offer(price=convert(packed & _MASK_128, uint128), active=packed != 0)


# ------------------------------------------------------------------------------------------------------------
#                                                  internals
# ------------------------------------------------------------------------------------------------------------


@internal
@view
def _check_dispute_game():
    assert msg.sender == dispute_game, "nodes: caller is not the dispute game"


@internal
@view
def _check_registered(node: address) -> uint256:
    standing: uint256 = self._standing[node]
    assert standing != 0, "nodes: node is not registered"
    return standing


@internal
def _set_endpoint(endpoint: String[256]):
    assert len(endpoint) != 0, "nodes: endpoint is empty"
    self._endpoints[msg.sender] = endpoint


@internal
def _use_signer(signer: address):
    assert signer != empty(address), "nodes: signer is the zero address"
    assert self._signers[signer] == 0, "nodes: signer was used before"
    assert signer == msg.sender or self._standing[signer] == 0, "nodes: signer is another node's operator"
    self._signers[signer] = convert(msg.sender, uint256) | (block.timestamp << 160)


@internal
@view
def _load_exit(node: address) -> Exit:
    packed: uint256 = self._exit[node]
    return Exit(
        thawing=packed & _MASK_96,
        thaw_at=(packed >> 96) & (2**64 - 1),
        frozen=(packed >> 160) & (2**32 - 1),
        registered_at=packed >> 192,
    )


@internal
def _store_exit(node: address, exit: Exit):
    # @dev No field can overflow into the next: thawing is bounded with the stake, times by the thaw period.
    assert exit.frozen <= 2**32 - 1, "nodes: too many disputes"
    self._exit[node] = (
        exit.thawing | (exit.thaw_at << 96) | (exit.frozen << 160) | (exit.registered_at << 192)
    )


@internal
def _pull(amount: uint256) -> uint256:
    before: uint256 = staticcall IERC20(token).balanceOf(self)
    assert extcall IERC20(token).transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "nodes: token transfer failed"
    return staticcall IERC20(token).balanceOf(self) - before


@internal
def _push(recipient: address, amount: uint256):
    assert extcall IERC20(token).transfer(
        recipient, amount, default_return_value=True
    ), "nodes: token transfer failed"
