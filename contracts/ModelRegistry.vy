# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Model registry
@license GNU Affero General Public License v3.0 only
@notice Publishers register models and publish versions of them. A version's content never changes; its status
        tells nodes whether to serve it. Rules: SPEC.md §4.
"""


from .interfaces import IModelRegistry
implements: IModelRegistry


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


MAX_ROYALTY_BPS: public(constant(uint16)) = 5_000
ACTIVE: constant(uint8) = 1
DEPRECATED: constant(uint8) = 2
REVOKED: constant(uint8) = 3


# @dev Bit c is set if the character with code c may stand in a name: `a-z 0-9 - _ .`.
_NAME_CHARACTERS: constant(uint256) = (
    ((2**26 - 1) << 97) | ((2**10 - 1) << 48) | (1 << 45) | (1 << 95) | (1 << 46)
)


# @dev Fields of a version that share one slot, lowest bits first: status, royalty_bps, published_at, number.
_ROYALTY_SHIFT: constant(uint256) = 8
_PUBLISHED_SHIFT: constant(uint256) = 24
_NUMBER_SHIFT: constant(uint256) = 88


struct StoredVersion:
    packed: uint256
    model_id: bytes32
    artifact: bytes32
    program_root: bytes32
    manifest_hash: bytes32
    uri: String[256]


# @dev Whether `register_model` is paused. Nothing else can be.
paused: public(bool)


_models: HashMap[bytes32, IModelRegistry.Model]
_versions: HashMap[bytes32, StoredVersion]


@deploy
def __init__(owner: address):
    """
    @notice Hands the pause switch to `owner`.
    @param owner The account that may pause `register_model`; not the zero address.
    """
    assert owner != empty(address), "models: owner is the zero address"
    ownable.__init__()
    ownable_2step.__init__()
    ownable._transfer_ownership(owner)


# ------------------------------------------------------------------------------------------------------------
#                                                permissionless
# ------------------------------------------------------------------------------------------------------------


@external
def register_model(name: String[64], metadata_uri: String[256]) -> bytes32:
    """
    @notice Registers a model under the caller's account.
    @param name 1 to 64 characters of `a-z 0-9 - _ .`; once per publisher.
    @param metadata_uri Where people find the model's description; may be empty.
    @return The model's id, `keccak256(abi.encode(publisher, name))`.
    """
    assert not self.paused, "models: registration is paused"
    assert self._is_name(name), "models: name must be 1 to 64 characters of a-z 0-9 - _ ."
    model_id: bytes32 = self._model_id(msg.sender, name)
    assert self._models[model_id].publisher == empty(address), "models: model is already registered"
    self._models[model_id] = IModelRegistry.Model(
        publisher=msg.sender,
        pending_publisher=empty(address),
        payee=msg.sender,
        version_count=0,
        name=name,
        metadata_uri=metadata_uri,
    )
    log IModelRegistry.ModelRegistered(
        model_id=model_id, publisher=msg.sender, name=name, metadata_uri=metadata_uri
    )
    return model_id


@external
def accept_model(model_id: bytes32):
    """
    @notice Completes a model's transfer to the caller, who becomes its publisher and royalty payee.
    @param model_id The model that its publisher has transferred to the caller.
    """
    pending_publisher: address = self._models[model_id].pending_publisher
    assert msg.sender == pending_publisher, "models: caller is not the pending publisher"
    old_publisher: address = self._models[model_id].publisher
    self._models[model_id].publisher = msg.sender
    self._models[model_id].pending_publisher = empty(address)
    log IModelRegistry.ModelTransferred(
        model_id=model_id, old_publisher=old_publisher, new_publisher=msg.sender
    )
    self._set_payee(model_id, msg.sender)


# ------------------------------------------------------------------------------------------------------------
#                                                  publisher
# ------------------------------------------------------------------------------------------------------------


@external
def set_metadata_uri(model_id: bytes32, metadata_uri: String[256]):
    """
    @notice Changes where people find the model's description.
    @param model_id A model of the caller.
    @param metadata_uri The new address; may be empty.
    """
    self._check_publisher(model_id)
    log IModelRegistry.MetadataUriChanged(
        model_id=model_id, old_uri=self._models[model_id].metadata_uri, new_uri=metadata_uri
    )
    self._models[model_id].metadata_uri = metadata_uri


@external
def publish_version(
    model_id: bytes32,
    artifact: bytes32,
    program_root: bytes32,
    manifest_hash: bytes32,
    royalty_bps: uint16,
    uri: String[256],
) -> bytes32:
    """
    @notice Publishes the model's next version, which stays as it is for ever but for its status.
    @param model_id A model of the caller.
    @param artifact sha256 of the artifact's bytes.
    @param program_root Merkle root of the exact program, or zero: receipts are worth `signed` only.
    @param manifest_hash sha256 of the canonical manifest.
    @param royalty_bps Publisher's share of what nodes earn with the version, in basis points, at most 5,000.
    @param uri Where the artifact can be fetched; may be empty.
    @return The version's id, `keccak256(abi.encode(model_id, number))`.
    """
    self._check_publisher(model_id)
    assert artifact != empty(bytes32), "models: artifact is zero"
    assert manifest_hash != empty(bytes32), "models: manifest is zero"
    assert royalty_bps <= MAX_ROYALTY_BPS, "models: royalty is above 5000 bps"
    number: uint256 = self._models[model_id].version_count + 1
    self._models[model_id].version_count = number
    version_id: bytes32 = self._version_id(model_id, number)
    self._versions[version_id] = StoredVersion(
        packed=convert(ACTIVE, uint256)
        | (convert(royalty_bps, uint256) << _ROYALTY_SHIFT)
        | (block.timestamp << _PUBLISHED_SHIFT)
        | (number << _NUMBER_SHIFT),
        model_id=model_id,
        artifact=artifact,
        program_root=program_root,
        manifest_hash=manifest_hash,
        uri=uri,
    )
    log IModelRegistry.VersionPublished(
        version_id=version_id,
        model_id=model_id,
        number=number,
        artifact=artifact,
        program_root=program_root,
        manifest_hash=manifest_hash,
        royalty_bps=royalty_bps,
        uri=uri,
    )
    return version_id


@external
def set_status(version_id: bytes32, status: uint8):
    """
    @notice Tells nodes whether to serve a version. Work done before a revocation stays payable.
    @param version_id A version of one of the caller's models.
    @param status 1 ACTIVE, 2 DEPRECATED (served, not recommended) or 3 REVOKED (final).
    """
    packed: uint256 = self._versions[version_id].packed
    assert packed != 0, "models: version does not exist"
    self._check_publisher(self._versions[version_id].model_id)
    old_status: uint8 = self._status(packed)
    assert old_status != REVOKED, "models: version is revoked"
    assert status in [ACTIVE, DEPRECATED, REVOKED], "models: status must be 1, 2 or 3"
    assert status != old_status, "models: version already has this status"
    self._versions[version_id].packed = packed ^ convert(old_status, uint256) ^ convert(status, uint256)
    log IModelRegistry.VersionStatusChanged(version_id=version_id, old_status=old_status, new_status=status)


@external
def set_royalty_payee(model_id: bytes32, payee: address):
    """
    @notice Names the account that receives the royalties of all versions of a model.
    @param model_id A model of the caller.
    @param payee The account; not the zero address.
    """
    self._check_publisher(model_id)
    assert payee != empty(address), "models: payee is the zero address"
    self._set_payee(model_id, payee)


@external
def transfer_model(model_id: bytes32, new_publisher: address):
    """
    @notice Offers a model to another account, which has to accept it; replaces an earlier offer.
    @param model_id A model of the caller.
    @param new_publisher The account; the zero address cancels the offer.
    """
    self._check_publisher(model_id)
    self._models[model_id].pending_publisher = new_publisher
    log IModelRegistry.ModelTransferStarted(
        model_id=model_id, publisher=msg.sender, new_publisher=new_publisher
    )


# ------------------------------------------------------------------------------------------------------------
#                                                    owner
# ------------------------------------------------------------------------------------------------------------


@external
def set_paused(paused: bool):
    """
    @notice Stops or resumes the registration of new models. Everything else goes on.
    @param paused True stops.
    """
    ownable._check_owner()
    self.paused = paused
    log IModelRegistry.PausedChanged(paused=paused)


# ------------------------------------------------------------------------------------------------------------
#                                                    views
# ------------------------------------------------------------------------------------------------------------


@external
@view
def models(model_id: bytes32) -> IModelRegistry.Model:
    """
    @notice Shows a model; every field is empty if it does not exist.
    @param model_id The model.
    @return The model.
    """
    return self._models[model_id]


@external
@view
def versions(version_id: bytes32) -> IModelRegistry.Version:
    """
    @notice Shows a version; every field is empty and the status 0 if it does not exist.
    @param version_id The version.
    @return The version; `published_at` in Unix seconds.
    """
    version: StoredVersion = self._versions[version_id]
    return IModelRegistry.Version(
        model_id=version.model_id,
        number=version.packed >> _NUMBER_SHIFT,
        artifact=version.artifact,
        program_root=version.program_root,
        manifest_hash=version.manifest_hash,
        royalty_bps=self._royalty_bps(version.packed),
        status=self._status(version.packed),
        published_at=convert((version.packed >> _PUBLISHED_SHIFT) & (2**64 - 1), uint64),
        uri=version.uri,
    )


@external
@view
def version_exists(version_id: bytes32) -> bool:
    """
    @notice Tells whether a version was ever published, whatever its status.
    @param version_id The version.
    @return True if it was.
    """
    return self._versions[version_id].packed != 0


@external
@view
def royalty_info(version_id: bytes32) -> (address, uint16, bytes32):
    """
    @notice Tells who is paid how much royalty for a version, and whether its receipts can be verified.
    @param version_id A version that exists.
    @return payee, royalty in basis points, program root (zero: `signed` only).
    """
    packed: uint256 = self._versions[version_id].packed
    assert packed != 0, "models: version does not exist"
    return (
        self._models[self._versions[version_id].model_id].payee,
        self._royalty_bps(packed),
        self._versions[version_id].program_root,
    )


@external
@pure
def model_id_of(publisher: address, name: String[64]) -> bytes32:
    """
    @notice Computes the id that a model has or would have.
    @param publisher The account that registers it.
    @param name The model's name; not checked.
    @return The id.
    """
    return self._model_id(publisher, name)


@external
@pure
def version_id_of(model_id: bytes32, number: uint256) -> bytes32:
    """
    @notice Computes the id that a version has or would have.
    @param model_id The model.
    @param number The version's number, from 1.
    @return The id.
    """
    return self._version_id(model_id, number)


# ------------------------------------------------------------------------------------------------------------
#                                                  internals
# ------------------------------------------------------------------------------------------------------------


@internal
@view
def _check_publisher(model_id: bytes32):
    assert self._models[model_id].publisher == msg.sender, "models: caller is not the publisher"


@internal
def _set_payee(model_id: bytes32, payee: address):
    old_payee: address = self._models[model_id].payee
    self._models[model_id].payee = payee
    log IModelRegistry.RoyaltyPayeeChanged(model_id=model_id, old_payee=old_payee, new_payee=payee)


@internal
@pure
def _is_name(name: String[64]) -> bool:
    # @dev 32 bytes of padding let `extract32` start at the last character.
    padded: Bytes[96] = concat(convert(name, Bytes[64]), empty(bytes32))
    for i: uint256 in range(len(name), bound=64):
        character: uint256 = convert(extract32(padded, i), uint256) >> 248
        if (_NAME_CHARACTERS >> character) & 1 == 0:
            return False
    return len(name) != 0


@internal
@pure
def _model_id(publisher: address, name: String[64]) -> bytes32:
    return keccak256(abi_encode(publisher, name))


@internal
@pure
def _version_id(model_id: bytes32, number: uint256) -> bytes32:
    return keccak256(abi_encode(model_id, number))


@internal
@pure
def _status(packed: uint256) -> uint8:
    return convert(packed & (2**8 - 1), uint8)


@internal
@pure
def _royalty_bps(packed: uint256) -> uint16:
    return convert((packed >> _ROYALTY_SHIFT) & (2**16 - 1), uint16)
