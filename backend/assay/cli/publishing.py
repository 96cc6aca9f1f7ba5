"""What `assay model push` and `publish` do: blobs to the hub, a model and a version to the chain."""

from __future__ import annotations

from dataclasses import dataclass

from assay.chain.values import Call, TxReceipt
from assay.cli.model_project import Project
from assay.client import Client, ModelUnknown
from assay.commitments.identifiers import model_id, version_id
from assay.errors import RequestError
from assay.hub.client import HubClient
from assay.types import ZERO_HASH, Address, Assurance, Hash32, VersionStatus


@dataclass(frozen=True, slots=True)
class Plan:
    """What publishing would do. `existing` is the number of an equal version that is there already."""

    publisher: Address
    name: str
    is_registered: bool
    version_count: int
    existing: int | None
    gas: int
    gas_price: int
    program_root: Hash32
    """What goes on-chain; zero: receipts are worth `signed`."""
    assurance: Assurance
    """Of the version's receipts on this deployment."""

    @property
    def cost(self) -> int:
        """Wei, at the present gas price."""
        return self.gas * self.gas_price


def push_project(hub_url: str, project: Project) -> dict[str, Hash32]:
    """Put artifact, manifest, card and self-test into the hub; what it has is not sent again."""
    with HubClient(hub_url) as hub:
        return {
            "artifact": hub.put(project.artifact),
            "manifest": hub.put(project.manifest.to_bytes()),
            "model_card": hub.put(project.card),
            "self_test": hub.put(project.self_test),
        }


def plan_publication(client: Client, project: Project, *, signed_only: bool = False) -> Plan:
    """Read the chain; gas is what a first or further version takes. The program root goes on-chain if there
    is one, unless `signed_only`.
    """
    root = ZERO_HASH if signed_only else project.program_root or ZERO_HASH
    publisher, name = client.consumer, project.config.name
    identifier = model_id(publisher, name)
    try:
        model, versions = client.resolver.versions(publisher, name)
    except ModelUnknown:
        model, versions = None, []
    wanted = (project.artifact_hash, project.manifest.digest, root)
    existing = [
        version.number
        for _, version in versions
        if (version.artifact, version.manifest_hash, version.program_root) == wanted
        and version.status is not VersionStatus.REVOKED
    ]
    if model is not None and model.publisher != publisher:
        raise RequestError(
            f"model {name} was handed over to {model.publisher}: only that account publishes versions of it",
            code="not_publisher",
        )
    gas = estimate(client, _publish_call(client, identifier, project, root, ""), model is not None)
    return Plan(
        publisher=publisher,
        name=name,
        is_registered=model is not None,
        version_count=model.version_count if model else 0,
        existing=existing[-1] if existing else None,
        gas=gas,
        gas_price=int(client.chain.request("eth_gasPrice"), 16),
        program_root=root,
        assurance=client.deployment.assurance_of(has_program=root != ZERO_HASH),
    )


FIRST_VERSION_GAS = 330_000
"""Both transactions of a new model; the second cannot be estimated before the first is mined."""


def estimate(client: Client, call: Call, is_registered: bool) -> int:
    """Gas of publishing, estimated by the chain where the model exists."""
    if not is_registered:
        return FIRST_VERSION_GAS
    query = {"from": client.consumer, "to": call.to, "data": "0x" + call.data.hex()}
    return int(client.chain.request("eth_estimateGas", [query]), 16)


def _publish_call(client: Client, identifier: Hash32, project: Project, root: Hash32, uri: str) -> Call:
    hashes = (project.artifact_hash, root, project.manifest.digest)
    return client.models.publish_version(identifier, *hashes, project.config.royalty_bps, uri)


@dataclass(frozen=True, slots=True)
class Published:
    number: int
    version_id: Hash32
    receipts: tuple[TxReceipt, ...]


def publish_project(client: Client, project: Project, plan: Plan, uri: str) -> Published:
    """Register the model if it is new, and publish the version. Each transaction is waited for."""
    identifier = model_id(plan.publisher, plan.name)
    receipts = []
    with client.sending() as sender:
        if not plan.is_registered:
            receipts.append(sender.send(client.models.register_model(plan.name, project.config.metadata_uri)))
        receipts.append(sender.send(_publish_call(client, identifier, project, plan.program_root, uri)))
    events = client.models.decode_logs(receipts[-1].logs)
    number = next(event.args["number"] for event in events if event.name == "VersionPublished")
    return Published(number, version_id(identifier, number), tuple(receipts))
