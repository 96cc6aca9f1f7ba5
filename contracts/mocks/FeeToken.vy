# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Token that takes a fee
@license GNU Affero General Public License v3.0 only
@notice An ERC-20 that burns 1 % of every transfer, rounded up.
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


FEE_BPS: public(constant(uint256)) = 100


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
def transfer(recipient: address, amount: uint256) -> bool:
    """
    @notice Moves the caller's tokens, less the fee.
    @param recipient The account that gets them.
    @param amount In the base unit.
    @return True.
    """
    self._move(msg.sender, recipient, amount)
    return True


@external
def transferFrom(owner: address, recipient: address, amount: uint256) -> bool:
    """
    @notice Moves tokens that their owner let the caller spend, less the fee.
    @param owner The account that has them.
    @param recipient The account that gets them.
    @param amount In the base unit.
    @return True.
    """
    erc20._spend_allowance(owner, msg.sender, amount)
    self._move(owner, recipient, amount)
    return True


@internal
def _move(owner: address, recipient: address, amount: uint256):
    fee: uint256 = (amount * FEE_BPS + 9_999) // 10_000
    erc20._burn(owner, fee)
    erc20._transfer(owner, recipient, amount - fee)
