# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Signatures that answer instead of reverting
@license GNU Affero General Public License v3.0 only
@notice One bad signature must not take a batch down, so these return false where snekmate's `ecdsa` reverts.
"""


# @dev Half the order of secp256k1: a larger s is the malleable twin of a smaller one (EIP-2).
MAX_S: constant(uint256) = 57_896_044_618_658_097_711_785_492_504_343_953_926_418_782_139_537_452_191_302_581_570_759_080_747_168
# @dev What a wallet may spend on one check: enough for multisig and passkey wallets, too little to starve a batch.
ERC1271_GAS: constant(uint256) = 200_000


_ERC1271_MAGIC: constant(bytes4) = 0x1626ba7e
_LOW_255: constant(uint256) = 2**255 - 1


@internal
@pure
def _is_signed_by(account: address, digest: bytes32, r: bytes32, vs: bytes32) -> bool:
    """
    @dev EIP-2098: `vs` has v - 27 in its top bit, so no v but 27 and 28 can be said.
    """
    s: uint256 = convert(vs, uint256) & _LOW_255
    if s > MAX_S or account == empty(address):
        return False
    return ecrecover(digest, unsafe_add(convert(vs, uint256) >> 255, 27), convert(r, uint256), s) == account


@internal
@view
def _is_approved_by(wallet: address, digest: bytes32, signature: Bytes[1024]) -> bool:
    """
    @dev ERC-1271 against a hostile wallet: bounded gas, no state change, 32 bytes of answer, reverts are a no. A
         wallet without code answers nothing.
    """
    success: bool = False
    answer: Bytes[32] = b""
    success, answer = raw_call(
        wallet,
        abi_encode(digest, signature, method_id=_ERC1271_MAGIC),
        max_outsize=32,
        gas=ERC1271_GAS,
        is_static_call=True,
        revert_on_failure=False,
    )
    return success and len(answer) == 32 and convert(answer, bytes32) == convert(_ERC1271_MAGIC, bytes32)


@internal
@pure
def _signer_of(digest: bytes32, signature: Bytes[65]) -> address:
    """
    @dev Whose 65 bytes r, s, v over the digest are; zero if they are nobody's: wrong length, high s, v not 27 or 28.
    """
    if len(signature) != 65:
        return empty(address)
    s: uint256 = convert(extract32(signature, 32), uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    if s > MAX_S or (v != 27 and v != 28):
        return empty(address)
    return ecrecover(digest, v, convert(extract32(signature, 0), uint256), s)
