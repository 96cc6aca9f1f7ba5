# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Token that refuses some accounts
@license GNU Affero General Public License v3.0 only
@notice An ERC-20 that moves nothing to accounts it was told to refuse: it reverts, or returns false.
@custom:security For tests only.
"""


from snekmate.auth import ownable
initializes: ownable


from snekmate.tokens import erc20
initializes: erc20[ownable := ownable]


exports: (
    erc20.name,
    erc20.symbol,
    erc20.decimals,
    erc20.totalSupply,
    erc20.balanceOf,
    erc20.allowance,
    erc20.approve,
)


# @dev How transfers to an account end: 0 they work, 1 they revert, 2 they return false.
refusal: public(HashMap[address, uint256])


@deploy
def __init__(name_: String[25], symbol_: String[5]):
    """
    @notice Creates the token with no supply, 18 decimals.
    @param name_ The token's name.
    @param symbol_ The token's symbol.
    """
    ownable.__init__()
    erc20.__init__(name_, symbol_, 18, name_, "1")


@external
def mint(recipient: address, amount: uint256):
    """
    @notice Mints tokens, for anyone who asks.
    @param recipient The account that gets them.
    @param amount In the base unit.
    """
    erc20._mint(recipient, amount)


@external
def refuse(account: address, how: uint256):
    """
    @notice Makes transfers to an account fail, or work.
    @param account The account.
    @param how 0 they work, 1 they revert, 2 they return false.
    """
    self.refusal[account] = how


@external
def transfer(recipient: address, amount: uint256) -> bool:
    """
    @notice Moves the caller's tokens unless the recipient is refused.
    @param recipient The account that gets them.
    @param amount In the base unit.
    @return Whether they were moved.
    """
    assert self.refusal[recipient] != 1, "token: recipient is refused"
    if self.refusal[recipient] == 2:
        return False
    erc20._transfer(msg.sender, recipient, amount)
    return True


@external
def transferFrom(owner: address, recipient: address, amount: uint256) -> bool:
    """
    @notice Moves tokens that their owner let the caller spend unless the recipient is refused.
    @param owner The account that has them.
    @param recipient The account that gets them.
    @param amount In the base unit.
    @return Whether they were moved.
    """
    assert self.refusal[recipient] != 1, "token: recipient is refused"
    if self.refusal[recipient] == 2:
        return False
    erc20._spend_allowance(owner, msg.sender, amount)
    erc20._transfer(owner, recipient, amount)
    return True
