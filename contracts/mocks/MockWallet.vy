# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Contract wallet
@license GNU Affero General Public License v3.0 only
@notice An ERC-1271 account that one key signs for, and that can be told to misbehave.
@custom:security For tests only.
"""


from snekmate.utils import ecdsa


HONEST: constant(uint256) = 0
REVERTS: constant(uint256) = 1
BURNS_ALL_GAS: constant(uint256) = 2
LOOPS: constant(uint256) = 3


_MAGIC: constant(bytes4) = 0x1626ba7e


# @dev The key that signs for the wallet.
signer: public(address)
behaviour: public(uint256)
# @dev What the wallet answers instead, if it is not empty.
answer: public(Bytes[4096])


@deploy
def __init__(signer_: address):
    self.signer = signer_


@external
def set_behaviour(behaviour: uint256):
    """
    @notice Tells the wallet how to answer.
    @param behaviour 0 honest, 1 reverts, 2 invalid opcode, 3 loops until the gas is gone.
    """
    self.behaviour = behaviour


@external
def set_answer(answer: Bytes[4096]):
    """
    @notice Tells the wallet what to answer, whatever it is asked.
    @param answer The raw return data; empty: honest again.
    """
    self.answer = answer


@external
@view
@raw_return
def isValidSignature(digest: bytes32, signature: Bytes[1024]) -> Bytes[4096]:
    """
    @notice ERC-1271.
    @param digest What was signed.
    @param signature 65 bytes by the wallet's signer.
    @return The magic value in a word of its own, or what the wallet was told to answer.
    """
    assert self.behaviour != REVERTS, "wallet: no"
    assert self.behaviour != BURNS_ALL_GAS, UNREACHABLE
    if self.behaviour == LOOPS:
        for i: uint256 in range(2**40):
            pass
    if len(self.answer) != 0:
        return self.answer
    if len(signature) == 65 and ecdsa._recover_sig(digest, slice(signature, 0, 65)) == self.signer:
        return abi_encode(_MAGIC)
    return abi_encode(empty(bytes32))
