"""From `publisher/name[@version]` to a version on the chain, and from a version to its manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from assay.chain.contracts import ModelRegistry, read_many
from assay.chain.keys import keystore_address
from assay.chain.logs import scan_logs
from assay.chain.views import Model, Version
from assay.client.errors import ModelUnknown, NodeRefused, NodeUnreachable, VersionRevoked
from assay.client.transport import NodeHttp
from assay.commitments.identifiers import check_model_name, checksum_address, model_id, version_id
from assay.commitments.manifest import Manifest
from assay.errors import ConfigurationError, RequestError
from assay.types import Address, Assurance, Hash32, VersionStatus

_REFERENCE = re.compile(r"(?:(?P<publisher>[^/@]+)/)?(?P<name>[^/@]+)(?:@(?P<number>[1-9][0-9]{0,9}))?")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_PAGE = 50


@dataclass(frozen=True, slots=True)
class Reference:
    """`publisher` is an address, a local account or empty; `number` None: the newest active version."""

    publisher: str
    name: str
    number: int | None


@dataclass(frozen=True, slots=True)
class ResolvedVersion:
    """A version as the chain has it. `publisher` is the account that registered the model."""

    publisher: Address
    name: str
    number: int
    version_id: Hash32
    model: Model
    version: Version
    assurance: Assurance

    @property
    def model_name(self) -> str:
        return f"{self.publisher}/{self.name}"

    @property
    def reference(self) -> str:
        return f"{self.model_name}@{self.number}"


def parse_reference(text: str) -> Reference:
    """Raises RequestError `reference_invalid`, `model_name`."""
    found = _REFERENCE.fullmatch(text.strip())
    if not found:
        raise RequestError(
            f"{text[:100]!r} is no model reference; write publisher/name or publisher/name@version, "
            "for instance 0x1234…/digits@1",
            code="reference_invalid",
        )
    number = found["number"]
    return Reference(
        found["publisher"] or "", check_model_name(found["name"]), int(number) if number else None
    )


class Resolver:
    """Reads the registry of models."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models

    def publisher(self, reference: Reference) -> Address:
        """The publisher's address: as written, of an account of this machine, or the only one of a bare name.

        Raises ModelUnknown.
        """
        text = reference.publisher
        if not text:
            return self._only_publisher(reference.name)
        try:
            return checksum_address(text if _ADDRESS.fullmatch(text) else keystore_address(text))
        except (ValueError, ConfigurationError) as error:
            raise ModelUnknown(
                f"publisher {text!r} is neither an address nor an account of this machine ({error}); write "
                f"0x…/{reference.name}"
            ) from None

    def _only_publisher(self, name: str) -> Address:
        """Who registered a model of this name, from the chain's events; refused if there are several."""
        found = sorted({event["publisher"] for event in self.registered() if event["name"] == name})
        if len(found) != 1:
            known = f"it is published by {', '.join(found)}" if found else "nobody registered it"
            raise ModelUnknown(f"{name!r} names no single model: {known}; write 0x…/{name}")
        return Address(found[0])

    def registered(self) -> list[dict[str, Any]]:
        """Arguments of every `ModelRegistered` event, oldest first: model_id, publisher, name,
        metadata_uri.
        """
        topics = [self._models.abi.topic("ModelRegistered")]
        logs = scan_logs(self._models, topics, self._models.deployment.block)
        return [self._models.decode_log(entry).args for entry in logs]

    def resolve(self, text: str) -> ResolvedVersion:
        """Raises ModelUnknown, VersionRevoked (a revoked version that is asked for by number)."""
        reference = parse_reference(text)
        publisher = self.publisher(reference)
        identifier = model_id(publisher, reference.name)
        model = self._models.model(identifier)
        if not model.exists:
            raise ModelUnknown(
                f"{publisher} registered no model {reference.name!r} on chain "
                f"{self._models.client.chain_id}; "
                "check the spelling and the network, or see `assay model list`"
            )
        number = reference.number
        if number is None:
            number, version = self._newest_active(identifier, model, reference.name)
        else:
            version = self._models.version(version_id(identifier, number))
        if not version.exists:
            raise ModelUnknown(
                f"{reference.name} has {model.version_count} versions; there is no version {number}"
            )
        if version.status is VersionStatus.REVOKED:
            raise VersionRevoked(
                f"version {number} of {publisher}/{reference.name} was revoked by its publisher; use another "
                "version"
            )
        return ResolvedVersion(
            publisher,
            reference.name,
            number,
            version_id(identifier, number),
            model,
            version,
            self._models.deployment.assurance_of(has_program=version.has_program),
        )

    def versions(self, publisher: Address, name: str) -> tuple[Model, list[tuple[Hash32, Version]]]:
        """The model and all its versions, oldest first. Raises ModelUnknown."""
        identifier = model_id(publisher, name)
        model = self._models.model(identifier)
        if not model.exists:
            raise ModelUnknown(f"{publisher} registered no model {name!r} on this chain")
        ids = [version_id(identifier, number) for number in range(1, model.version_count + 1)]
        found = read_many(self._models.client, [self._models.view("versions", item) for item in ids])
        return model, list(zip(ids, found, strict=True))

    def _newest_active(self, identifier: Hash32, model: Model, name: str) -> tuple[int, Version]:
        for last in range(model.version_count, 0, -_PAGE):
            numbers = list(range(last, max(0, last - _PAGE), -1))
            reads = [self._models.view("versions", version_id(identifier, number)) for number in numbers]
            for number, version in zip(numbers, read_many(self._models.client, reads), strict=True):
                if version.status is VersionStatus.ACTIVE:
                    return number, version
        raise ModelUnknown(
            f"none of the {model.version_count} versions of {name} is active; name one, as in {name}@1"
        )


class Manifests:
    """Fetches manifests by their hash: what comes is checked, so where it comes from does not matter."""

    def __init__(self, folder: Path, http: NodeHttp, hub_url: str | None) -> None:
        self._folder, self._http, self._hub_url = folder, http, hub_url
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(self, version: Version) -> Manifest | None:
        """The version's manifest, or None where no hub has it."""
        path = self._folder / f"{version.manifest_hash.hex()}.json"
        if path.exists() and (manifest := _checked(path.read_bytes(), version.manifest_hash)):
            return manifest
        for base in self.sources(version):
            try:
                reply = self._http.get(base, f"/v1/artifacts/{version.manifest_hash.hex()}")
            except (NodeUnreachable, NodeRefused):
                continue
            manifest = _checked(reply.content, version.manifest_hash) if reply.status == 200 else None
            if manifest is not None:
                path.write_bytes(reply.content)
                return manifest
        return None

    def sources(self, version: Version) -> list[str]:
        """Hubs to ask: the one that was set, and where the publisher says that the artifact is."""
        is_http = version.uri.lower().startswith(("http://", "https://"))
        published = version.uri.partition("/v1/artifacts/")[0] if "/v1/artifacts/" in version.uri else ""
        candidates = [self._hub_url or "", published if is_http else ""]
        return list(dict.fromkeys(candidate for candidate in candidates if candidate))


def _checked(raw: bytes, digest: Hash32) -> Manifest | None:
    if sha256(raw).digest() != digest:
        return None
    try:
        return Manifest.from_bytes(raw)
    except RequestError:
        return None
