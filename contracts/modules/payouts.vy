# pragma version 0.4.3
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Payouts that cannot stop what they end
@license GNU Affero General Public License v3.0 only
@notice Pays at once; what the token refuses to transfer waits for whom it is due to. Rules: SPEC.md §11.
"""


from ethereum.ercs import IERC20


from ..interfaces import IDisputeGame


# @dev ERC-20 that bonds and stakes are in.
token: public(immutable(IERC20))
# @dev account -> tokens that `claim` pays, in base units.
claimable: public(HashMap[address, uint256])


@deploy
def __init__(token_: IERC20):
    assert token_.address.is_contract, "disputes: token has no code"
    token = token_


@external
def claim(account: address) -> uint256:
    """
    @notice Pays what could not be transferred to an account when it was due. Anyone may trigger it.
    @param account Account to pay.
    @return Tokens paid, in base units.
    """
    amount: uint256 = self.claimable[account]
    assert amount != 0, "disputes: nothing to claim"
    self.claimable[account] = 0
    log IDisputeGame.Claimed(account=account, amount=amount)
    assert extcall token.transfer(account, amount, default_return_value=True), "disputes: token transfer failed"
    return amount


@internal
def _take(amount: uint256):
    """
    @dev All of it must arrive: a token that takes a fee cannot carry bonds.
    """
    before: uint256 = staticcall token.balanceOf(self)
    assert extcall token.transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "disputes: token transfer failed"
    assert staticcall token.balanceOf(self) >= before + amount, "disputes: bond did not arrive"


@internal
def _pay(account: address, amount: uint256):
    if amount == 0:
        return
    success: bool = False
    answer: Bytes[32] = b""
    success, answer = raw_call(
        token.address,
        abi_encode(account, amount, method_id=method_id("transfer(address,uint256)")),
        max_outsize=32,
        revert_on_failure=False,
    )
    if not success or (len(answer) != 0 and convert(answer, uint256) == 0):
        self.claimable[account] += amount
        log IDisputeGame.PaymentDeferred(account=account, amount=amount)
