# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Token for tests and local chains
@license GNU Affero General Public License v3.0 only
@notice snekmate's ERC-20 with permit, 18 decimals, which anyone can mint.
@custom:security Worth nothing: never deploy it outside tests and local chains.
"""


from ethereum.ercs import IERC20
implements: IERC20


from snekmate.auth import ownable
initializes: ownable


from snekmate.tokens import erc20
initializes: erc20[ownable := ownable]


exports: (
    erc20.IERC20,
    erc20.IERC20Detailed,
    erc20.IERC20Permit,
    erc20.eip712Domain,
)


@deploy
def __init__(name_: String[25], symbol_: String[5]):
    """
    @notice Creates the token with no supply.
    @param name_ The token's name, also that of its EIP-712 domain (version 1).
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
