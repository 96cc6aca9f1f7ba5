"""The registries of models and nodes (SPEC.md §4, §5) and the token."""

from __future__ import annotations

from typing import ClassVar, Final, cast

from assay.chain import views
from assay.chain.client import BlockId
from assay.chain.contract import Contract
from assay.chain.deployments import TOKEN
from assay.chain.values import Call
from assay.commitments.identifiers import address_word, keccak
from assay.errors import ContractRevert
from assay.types import Address, Hash32, VersionStatus

AUTHORIZATION_STATE: Final = keccak(b"authorizationState(address,bytes32)")[:4]
"""Selector (EIP-3009)."""


class ModelRegistry(Contract):
    """SPEC.md §4."""

    NAME = "ModelRegistry"
    RESULTS: ClassVar[dict[str, type]] = {
        "models": views.Model,
        "versions": views.Version,
        "royalty_info": views.RoyaltyInfo,
    }

    def model(self, model_id: Hash32, block: BlockId = "latest") -> views.Model:
        return cast(views.Model, self.read("models", model_id, block=block))

    def version(self, version_id: Hash32, block: BlockId = "latest") -> views.Version:
        return cast(views.Version, self.read("versions", version_id, block=block))

    def version_exists(self, version_id: Hash32, block: BlockId = "latest") -> bool:
        return cast(bool, self.read("version_exists", version_id, block=block))

    def royalty_info(self, version_id: Hash32, block: BlockId = "latest") -> views.RoyaltyInfo:
        """Raises `ContractRevert` on an unknown version."""
        return cast(views.RoyaltyInfo, self.read("royalty_info", version_id, block=block))

    def register_model(self, name: str, metadata_uri: str) -> Call:
        return self.write("register_model", name, metadata_uri, label=f"register model {name}")

    def set_metadata_uri(self, model_id: Hash32, metadata_uri: str) -> Call:
        return self.write("set_metadata_uri", model_id, metadata_uri)

    def publish_version(  # noqa: PLR0917 - the contract's order
        self,
        model_id: Hash32,
        artifact: Hash32,
        program_root: Hash32,
        manifest_hash: Hash32,
        royalty_bps: int,
        uri: str,
    ) -> Call:
        label = f"publish version of model 0x{model_id.hex()}"
        args = (model_id, artifact, program_root, manifest_hash, royalty_bps, uri)
        return self.write("publish_version", *args, label=label)

    def set_status(self, version_id: Hash32, status: VersionStatus) -> Call:
        return self.write("set_status", version_id, int(status), label=f"set version {status.name}")

    def set_royalty_payee(self, model_id: Hash32, payee: Address) -> Call:
        return self.write("set_royalty_payee", model_id, payee)

    def transfer_model(self, model_id: Hash32, new_publisher: Address) -> Call:
        return self.write("transfer_model", model_id, new_publisher)

    def accept_model(self, model_id: Hash32) -> Call:
        return self.write("accept_model", model_id)


class NodeRegistry(Contract):
    """SPEC.md §5."""

    NAME = "NodeRegistry"
    RESULTS: ClassVar[dict[str, type]] = {
        "nodes": views.Node,
        "standing": views.Standing,
        "signer_info": views.SignerInfo,
        "offers": views.Offer,
    }

    def node(self, node: Address, block: BlockId = "latest") -> views.Node:
        return cast(views.Node, self.read("nodes", node, block=block))

    def standing(self, node: Address, block: BlockId = "latest") -> views.Standing:
        return cast(views.Standing, self.read("standing", node, block=block))

    def is_active(self, node: Address, block: BlockId = "latest") -> bool:
        return cast(bool, self.read("is_active", node, block=block))

    def signer_info(self, signer: Address, block: BlockId = "latest") -> views.SignerInfo:
        return cast(views.SignerInfo, self.read("signer_info", signer, block=block))

    def was_signer(self, node: Address, signer: Address, timestamp: int, block: BlockId = "latest") -> bool:
        return cast(bool, self.read("was_signer", node, signer, timestamp, block=block))

    def offer_of(self, node: Address, version_id: Hash32, block: BlockId = "latest") -> views.Offer:
        return cast(views.Offer, self.read("offers", node, version_id, block=block))

    def min_stake(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("min_stake", block=block))

    def thaw_period(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("thaw_period", block=block))

    def total_staked(self, block: BlockId = "latest") -> int:
        return cast(int, self.read("total_staked", block=block))

    def register(self, signer: Address, endpoint: str) -> Call:
        return self.write("register", signer, endpoint, label="register node")

    def set_endpoint(self, endpoint: str) -> Call:
        return self.write("set_endpoint", endpoint)

    def rotate_signer(self, signer: Address) -> Call:
        return self.write("rotate_signer", signer)

    def stake(self, node: Address, amount: int) -> Call:
        """The sender must have approved the amount of the token to this contract."""
        return self.write("stake", node, amount, label=f"stake {amount}")

    def begin_unstake(self, amount: int) -> Call:
        return self.write("begin_unstake", amount)

    def cancel_unstake(self) -> Call:
        return self.write("cancel_unstake")

    def withdraw(self) -> Call:
        return self.write("withdraw", label="withdraw stake")

    def offer(self, version_id: Hash32, price: int) -> Call:
        return self.write("offer", version_id, price, label=f"offer version 0x{version_id.hex()} at {price}")

    def withdraw_offer(self, version_id: Hash32) -> Call:
        return self.write("withdraw_offer", version_id)


class Token(Contract):
    """The payment and stake token; `permit` and `mint` only where the token has them."""

    NAME = TOKEN

    def balance_of(self, account: Address, block: BlockId = "latest") -> int:
        return cast(int, self.read("balanceOf", account, block=block))

    def allowance(self, owner: Address, spender: Address, block: BlockId = "latest") -> int:
        return cast(int, self.read("allowance", owner, spender, block=block))

    def is_authorization_used(self, payer: Address, nonce: Hash32, block: BlockId = "latest") -> bool:
        """Whether a transfer by authorization (EIP-3009) was made, or taken back, under the payer's nonce.

        Raises ContractRevert if the token has none. By selector: the ABI of a deployment may be ERC-20's.
        """
        answer = self.client.call(self.address, AUTHORIZATION_STATE + address_word(payer) + nonce, block)
        if len(answer) != 32:
            raise ContractRevert(f"token: {self.address} has no transfers by authorization (EIP-3009)")
        return any(answer)

    def decimals(self) -> int:
        return cast(int, self.read("decimals"))

    def symbol(self) -> str:
        return cast(str, self.read("symbol"))

    def approve(self, spender: Address, amount: int) -> Call:
        return self.write("approve", spender, amount, label=f"approve {amount}")

    def transfer(self, recipient: Address, amount: int) -> Call:
        return self.write("transfer", recipient, amount, label=f"transfer {amount}")

    def mint(self, recipient: Address, amount: int) -> Call:
        """The mock token of local chains alone."""
        return self.write("mint", recipient, amount, label=f"mint {amount}")
