# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Token that calls back
@license GNU Affero General Public License v3.0 only
@notice An ERC-20 that makes one call of somebody's choice in the middle of its next transfer, and that can act as
        an account of its own, so that the call meets no other guard than the reentrancy lock.
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


# @dev What the next transfer calls; the zero address: nothing.
target: public(address)
call_data: public(Bytes[4096])
# @dev How the last such call ended, and what it returned or reverted with.
callback_succeeded: public(bool)
callback_result: public(Bytes[512])


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
def set_callback(target: address, call_data: Bytes[4096]):
    """
    @notice Sets the call that the next transfer makes, after it moved the tokens.
    @param target The contract to call.
    @param call_data Selector and arguments.
    """
    self.target = target
    self.call_data = call_data


@external
def execute(target: address, call_data: Bytes[4096]) -> Bytes[512]:
    """
    @notice Makes a call as the token.
    @param target The contract to call.
    @param call_data Selector and arguments.
    @return What the call returned.
    """
    return raw_call(target, call_data, max_outsize=512)


@external
def transfer(recipient: address, amount: uint256) -> bool:
    """
    @notice Moves the caller's tokens and makes the call that was set.
    @param recipient The account that gets them.
    @param amount In the base unit.
    @return True.
    """
    self._move(msg.sender, recipient, amount)
    return True


@external
def transferFrom(owner: address, recipient: address, amount: uint256) -> bool:
    """
    @notice Moves tokens that their owner let the caller spend and makes the call that was set.
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
    erc20._transfer(owner, recipient, amount)
    target: address = self.target
    if target == empty(address):
        return
    self.target = empty(address)
    self.callback_succeeded, self.callback_result = raw_call(
        target, self.call_data, max_outsize=512, revert_on_failure=False
    )
