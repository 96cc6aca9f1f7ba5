# pragma version 0.4.3
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Vault: escrow per (consumer, node) and pull payments
@license GNU Affero General Public License v3.0 only
@notice Every token that enters or leaves Settlement does so here. `total_liabilities` is what the contract owes to
        everybody; moving money between accounts inside does not change it. Rules: SPEC.md §6.
"""


from ethereum.ercs import IERC20


from ..interfaces import ISettlement


MAX_THAW_PERIOD: constant(uint256) = 365 * 86_400


# @dev Where the balance stands in an account: in the top 96 of its 256 bits.
BALANCE: constant(uint256) = 160
MAX_AMOUNT: constant(uint256) = 2**96 - 1


_MASK_64: constant(uint256) = 2**64 - 1


# @dev The payment token, an ERC-20.
token: public(immutable(IERC20))
# @dev Seconds between `begin_thaw` and `withdraw`.
escrow_thaw_period: public(immutable(uint256))


# @dev Sum of escrows, uncollected batches and claimable amounts, in the token's base unit. Bounded by the token's
#      supply alone: only each escrow is held to 96 bits, so nobody's deposit can be in the way of another's.
total_liabilities: public(uint256)
# @dev account -> amount that `claim` pays out.
claimable: public(HashMap[address, uint256])


# @dev consumer -> node -> escrow balance (96) | the channel that was used last (160, see `channels`). One slot,
#      because `post_batch` reads and writes both for every voucher.
accounts: HashMap[address, HashMap[address, uint256]]
# @dev consumer -> node -> thawing (96) | thaw_at (64). Zero: no thaw.
_thaws: HashMap[address, HashMap[address, uint256]]


@deploy
def __init__(token_: IERC20, escrow_thaw_period_: uint256):
    assert token_.address.is_contract, "settlement: token has no code"
    assert escrow_thaw_period_ <= MAX_THAW_PERIOD, "settlement: escrow thaw period is over 365 days"
    token = token_
    escrow_thaw_period = escrow_thaw_period_


@external
def fund(consumer: address, node: address, amount: uint256):
    """
    @notice Puts tokens into a consumer's escrow with a node, out of the caller's pocket.
    @param consumer Account whose vouchers the escrow pays; only it can take the rest out again.
    @param node Node that the escrow pays.
    @param amount Tokens to transfer, in base units; what arrives is credited.
    """
    self._fund(consumer, node, amount)


@external
def fund_with_permit(
    consumer: address, node: address, amount: uint256, deadline: uint256, v: uint8, r: bytes32, s: bytes32
):
    """
    @notice Approves by the caller's EIP-2612 permit and funds in one transaction. A permit that somebody else used
            first is no error as long as the allowance is there.
    @param consumer Account whose vouchers the escrow pays.
    @param node Node that the escrow pays.
    @param amount Tokens to approve and transfer, in base units.
    @param deadline Unix time until which the permit is valid.
    @param v Recovery id of the permit's signature.
    @param r First word of the permit's signature.
    @param s Second word of the permit's signature.
    """
    permitted: bool = raw_call(
        token.address,
        abi_encode(
            msg.sender,
            self,
            amount,
            deadline,
            v,
            r,
            s,
            method_id=method_id("permit(address,address,uint256,uint256,uint8,bytes32,bytes32)"),
        ),
        revert_on_failure=False,
    )
    self._fund(consumer, node, amount)


@external
def begin_thaw(node: address, amount: uint256):
    """
    @notice Starts the clock after which the caller can take escrow back. Replaces an earlier thaw. Thawing money
            still pays vouchers.
    @param node Node whose escrow is meant.
    @param amount Tokens to thaw, in base units; at most the balance.
    """
    assert amount != 0, "settlement: nothing to thaw"
    assert amount <= self.accounts[msg.sender][node] >> BALANCE, "settlement: amount is over the balance"
    thaw_at: uint256 = block.timestamp + escrow_thaw_period
    self._thaws[msg.sender][node] = amount << 64 | thaw_at
    log ISettlement.ThawBegun(consumer=msg.sender, node=node, amount=amount, thaw_at=thaw_at)


@external
def cancel_thaw(node: address):
    """
    @notice Gives up the caller's thaw of escrow with a node.
    @param node Node whose escrow is meant.
    """
    assert self._thaws[msg.sender][node] != 0, "settlement: no thaw to cancel"
    self._thaws[msg.sender][node] = 0
    log ISettlement.ThawCancelled(consumer=msg.sender, node=node)


@external
def withdraw(node: address) -> uint256:
    """
    @notice Pays the caller its thawed escrow, less what vouchers took meanwhile.
    @param node Node whose escrow is meant.
    @return Tokens paid, in base units.
    """
    thaw: uint256 = self._thaws[msg.sender][node]
    assert thaw != 0, "settlement: nothing is thawing"
    assert block.timestamp >= thaw & _MASK_64, "settlement: escrow is still thawing"
    account: uint256 = self.accounts[msg.sender][node]
    amount: uint256 = min(thaw >> 64, account >> BALANCE)
    self._thaws[msg.sender][node] = 0
    self.accounts[msg.sender][node] = account - (amount << BALANCE)
    log ISettlement.EscrowWithdrawn(consumer=msg.sender, node=node, amount=amount)
    self._pay(msg.sender, amount)
    return amount


@external
def claim(account: address) -> uint256:
    """
    @notice Pays an account everything that collected batches, and refunds to full escrows, credited to it. Anyone may
            trigger it.
    @param account Account to pay.
    @return Tokens paid, in base units.
    """
    amount: uint256 = self.claimable[account]
    assert amount != 0, "settlement: nothing to claim"
    self.claimable[account] = 0
    log ISettlement.Claimed(account=account, amount=amount)
    self._pay(account, amount)
    return amount


@external
@view
def escrows(consumer: address, node: address) -> ISettlement.Escrow:
    """
    @notice A consumer's escrow with a node.
    @param consumer Account whose vouchers the escrow pays.
    @param node Node that the escrow pays.
    @return Balance, the part of it that is thawing, and when that can be withdrawn (0: no thaw).
    """
    balance: uint256 = self.accounts[consumer][node] >> BALANCE
    thaw: uint256 = self._thaws[consumer][node]
    return ISettlement.Escrow(
        balance=convert(balance, uint128),
        thawing=convert(min(thaw >> 64, balance), uint128),
        thaw_at=convert(thaw & _MASK_64, uint64),
    )


@internal
def _fund(consumer: address, node: address, amount: uint256):
    """
    @dev Credits what arrived, not what was asked for.
    """
    assert consumer != empty(address), "settlement: consumer is the zero address"
    before: uint256 = staticcall token.balanceOf(self)
    assert extcall token.transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "settlement: token transfer failed"
    after: uint256 = staticcall token.balanceOf(self)
    assert after > before, "settlement: no tokens arrived"
    received: uint256 = after - before
    account: uint256 = self.accounts[consumer][node]
    assert received <= MAX_AMOUNT - (account >> BALANCE), "settlement: escrow is over 96 bits"
    self.total_liabilities += received
    account += received << BALANCE
    self.accounts[consumer][node] = account
    log ISettlement.Funded(
        consumer=consumer, node=node, sender=msg.sender, amount=received, balance=account >> BALANCE
    )


@internal
def _give_back(consumer: address, node: address, amount: uint256):
    """
    @dev Returns to an escrow what `total_liabilities` already counts; what a full escrow cannot hold the consumer
         can claim, so that a refund never fails.
    """
    account: uint256 = self.accounts[consumer][node]
    returned: uint256 = min(amount, MAX_AMOUNT - (account >> BALANCE))
    self.accounts[consumer][node] = account + (returned << BALANCE)
    if returned != amount:
        self.claimable[consumer] += amount - returned


@internal
def _pay(account: address, amount: uint256):
    self.total_liabilities -= amount
    if amount != 0:
        assert extcall token.transfer(account, amount, default_return_value=True), "settlement: token transfer failed"
