# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Token for tests and local chains
@license GNU Affero General Public License v3.0 only
@notice snekmate's ERC-20 with permit, 18 decimals, which anyone can mint, and transfers by signed authorization
        (EIP-3009), so that plain HTTP clients can pay with it by x402.
@custom:security Worth nothing: never deploy it outside tests and local chains.
"""


from ethereum.ercs import IERC20
implements: IERC20


from snekmate.auth import ownable
initializes: ownable


from snekmate.tokens import erc20
initializes: erc20[ownable := ownable]


from snekmate.utils import eip712_domain_separator
uses: eip712_domain_separator


from ..modules import signatures


exports: (
    erc20.IERC20,
    erc20.IERC20Detailed,
    erc20.IERC20Permit,
    erc20.eip712Domain,
)


# @dev EIP-3009: an authorization was used, whoever brought it.
event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)


# @dev EIP-3009: its signer took an authorization back.
event AuthorizationCanceled:
    authorizer: indexed(address)
    nonce: indexed(bytes32)


# @dev Of the signature's EIP-712 domain.
version: public(constant(String[1])) = "1"


TRANSFER_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
RECEIVE_WITH_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
CANCEL_AUTHORIZATION_TYPEHASH: public(constant(bytes32)) = keccak256(
    "CancelAuthorization(address authorizer,bytes32 nonce)"
)


# @dev authorizer -> nonce -> used or taken back.
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])


# @dev What an authorization of either kind says.
struct Authorization:
    sender: address
    recipient: address
    amount: uint256
    valid_after: uint256
    valid_before: uint256
    nonce: bytes32


@deploy
def __init__(name_: String[25], symbol_: String[5]):
    """
    @notice Creates the token with no supply.
    @param name_ The token's name, also that of its EIP-712 domain (version 1).
    @param symbol_ The token's symbol.
    """
    ownable.__init__()
    erc20.__init__(name_, symbol_, 18, name_, version)


@external
def mint(recipient: address, amount: uint256):
    """
    @notice Mints tokens, for anyone who asks.
    @param recipient The account that gets them.
    @param amount In the base unit.
    """
    erc20._mint(recipient, amount)


@external
def transferWithAuthorization(
    _from: address,
    to: address,
    amount: uint256,
    valid_after: uint256,
    valid_before: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice Moves what its owner authorized; anyone may bring the authorization (EIP-3009).
    @param _from The account that signed, and pays.
    @param to The account that is paid.
    @param amount In the base unit.
    @param valid_after Unix time after which it is valid, exclusive.
    @param valid_before Unix time before which it is valid, exclusive.
    @param nonce Chosen by the signer, good for one authorization.
    @param v Of the signature, 27 or 28.
    @param r Of the signature.
    @param s Of the signature, at most half the curve's order.
    """
    given: Authorization = Authorization(
        sender=_from, recipient=to, amount=amount, valid_after=valid_after, valid_before=valid_before, nonce=nonce
    )
    self._move(TRANSFER_WITH_AUTHORIZATION_TYPEHASH, given, v, r, s)


@external
def receiveWithAuthorization(
    _from: address,
    to: address,
    amount: uint256,
    valid_after: uint256,
    valid_before: uint256,
    nonce: bytes32,
    v: uint8,
    r: bytes32,
    s: bytes32,
):
    """
    @notice The same for an authorization that its recipient alone may bring.
    @param _from The account that signed, and pays.
    @param to The account that is paid: the caller.
    @param amount In the base unit.
    @param valid_after Unix time after which it is valid, exclusive.
    @param valid_before Unix time before which it is valid, exclusive.
    @param nonce Chosen by the signer, good for one authorization.
    @param v Of the signature, 27 or 28.
    @param r Of the signature.
    @param s Of the signature, at most half the curve's order.
    """
    assert to == msg.sender, "token: caller must be the payee"
    given: Authorization = Authorization(
        sender=_from, recipient=to, amount=amount, valid_after=valid_after, valid_before=valid_before, nonce=nonce
    )
    self._move(RECEIVE_WITH_AUTHORIZATION_TYPEHASH, given, v, r, s)


@external
def cancelAuthorization(authorizer: address, nonce: bytes32, v: uint8, r: bytes32, s: bytes32):
    """
    @notice Takes an authorization back that was not used yet.
    @param authorizer The account that signed it, and signs this.
    @param nonce The authorization's.
    @param v Of the signature, 27 or 28.
    @param r Of the signature.
    @param s Of the signature, at most half the curve's order.
    """
    assert not self.authorizationState[authorizer][nonce], "token: authorization is used or canceled"
    struct_hash: bytes32 = keccak256(abi_encode(CANCEL_AUTHORIZATION_TYPEHASH, authorizer, nonce))
    self._check_signature(authorizer, struct_hash, v, r, s)
    self.authorizationState[authorizer][nonce] = True
    log AuthorizationCanceled(authorizer=authorizer, nonce=nonce)


@internal
def _move(type_hash: bytes32, given: Authorization, v: uint8, r: bytes32, s: bytes32):
    assert block.timestamp > given.valid_after, "token: authorization is not yet valid"
    assert block.timestamp < given.valid_before, "token: authorization is expired"
    assert not self.authorizationState[given.sender][given.nonce], "token: authorization is used or canceled"
    self._check_signature(given.sender, keccak256(abi_encode(type_hash, given)), v, r, s)
    self.authorizationState[given.sender][given.nonce] = True
    log AuthorizationUsed(authorizer=given.sender, nonce=given.nonce)
    erc20._transfer(given.sender, given.recipient, given.amount)


@internal
@view
def _check_signature(account: address, struct_hash: bytes32, v: uint8, r: bytes32, s: bytes32):
    assert v == 27 or v == 28, "token: invalid signature"
    assert convert(s, uint256) <= signatures.MAX_S, "token: invalid signature"
    digest: bytes32 = eip712_domain_separator._hash_typed_data_v4(struct_hash)
    signer: address = ecrecover(digest, convert(v, uint256), convert(r, uint256), convert(s, uint256))
    assert signer != empty(address) and signer == account, "token: invalid signature"
