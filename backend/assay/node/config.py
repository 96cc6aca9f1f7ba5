"""`node.toml`: everything that a node is told, in its data folder. Paths in it are relative to that
folder."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from assay.commitments.identifiers import check_model_name, checksum_address
from assay.disk import write_whole
from assay.errors import ConfigurationError, RequestError
from assay.node.observability.request_log import Requests
from assay.types import Address

FILE: Final = "node.toml"
LOG_FILE: Final = "receipts.sqlite3"
OUTBOX_FILE: Final = "outbox.sqlite3"
ARTIFACTS: Final = "artifacts"
MIB: Final = 1 << 20
POSTING_SECONDS: Final = 600
"""From closing a batch to its block, acknowledgements, a busy chain and a lagging clock included."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionConfig(Section):
    """A version to serve. `price` in base units is what `assay node init` offers it at."""

    publisher: str
    name: str
    number: int = Field(ge=1)
    price: int = Field(default=0, ge=0, lt=1 << 128)
    max_batch: int = Field(
        default=0,
        ge=0,
        le=65_536,
        description="rows that run together; 0: as many as pay, if no answer depends on it; 1: never",
    )
    executor: str = Field(default="", description="URL of an Open Inference Protocol v2 server that runs it")
    executor_model: str = Field(default="", description="its name there; empty: `name`")
    executor_version: str = Field(default="", description="its version there; empty: the server's choice")
    executor_seconds: float = Field(default=30.0, gt=0, description="for one answer")
    executor_connections: int = Field(default=8, ge=1, le=256)
    executor_json: bool = Field(default=False, description="send JSON, even if binary tensors are understood")
    spot_check: float = Field(default=0.0, ge=0, le=1, description="share of exact answers computed here too")

    @field_validator("executor")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme != "http" or not parts.hostname or parts.username or parts.query):
            raise ValueError("must be http://host:port of a server that this node alone can reach")
        return value.rstrip("/")

    @field_validator("publisher")
    @classmethod
    def _address(cls, value: str) -> str:
        return checksum_address(value)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return check_model_name(value)
        except RequestError as error:
            raise ValueError(str(error)) from None

    def __str__(self) -> str:
        return f"{self.publisher}/{self.name}@{self.number}"


class LimitsConfig(Section):
    """What one request and all requests together may take."""

    max_body_mib: int = Field(default=16, ge=1)
    max_json_mib: int = Field(default=4, ge=1)
    max_elements: int = Field(default=4_194_304, ge=1, description="of one input tensor")
    max_concurrent: int = Field(
        default=256,
        ge=1,
        description="places of requests whose consumer is known, from admission to receipt; who has an equal "
        "part of all may hold an eighth of those free. Above [engines] max_waiting: a run holds them, too",
    )
    max_connections: int = Field(default=1024, ge=1)
    max_mib_in_progress: int = Field(default=256, ge=1)
    max_unacknowledged: int = Field(default=64, ge=1)
    run_seconds: float = Field(default=10.0, gt=0)
    deadline_ms: int = Field(default=1000, ge=1, description="what counts as answered in time")
    arena_mib: int = Field(
        default=2048, ge=64, description="memory for tensors of all runs, beside [memory] budget_mib"
    )
    artifact_mib: int = Field(default=512, ge=1)
    sandbox_mib: int = Field(default=4096, ge=1024)
    sandbox_seconds: int = Field(default=60, ge=1)


class LogConfig(Section):
    """Where receipts are written to before they leave."""

    url: str = Field(
        default="", description="postgresql://user@host/name, shared by this node's processes; empty: a file"
    )
    password_file: str = Field(default="", description="of that user; empty: PGPASSFILE, ~/.pgpass or none")


class MemoryConfig(Section):
    """What loaded versions may take together; beyond it the least recently used one is unloaded."""

    budget_mib: int = Field(default=0, ge=0, description="0: half of the machine's or control group's memory")
    min_resident_seconds: float = Field(
        default=30.0, ge=0, description="a version stays so long before others may displace it"
    )


class EnginesConfig(Section):
    """How requests wait for a version and are run. Of the queue, a consumer may take as much as is free."""

    inline_ms: float | None = Field(
        default=None,
        ge=0,
        description="shorter runs are run in the event loop; if left out 1, or 25 where there is one core "
        "alone, which a thread would take from the event loop all the same",
    )
    max_waiting: int = Field(
        default=128,
        ge=2,
        description="requests that wait for one version; not more than max_concurrent, so that one consumer, "
        "who gets half, cannot keep others from being heard",
    )
    wait_ms: float = Field(
        default=500.0, gt=0, description="who would wait longer, at the rate of late, is refused as busy"
    )
    max_waiting_mib: int = Field(default=256, ge=1)
    max_batch_mib: int = Field(default=64, ge=1)


class SettlementConfig(Section):
    """When batches are closed. Amounts in base units."""

    max_receipts: int = Field(default=10_000, ge=1, le=1 << 20)
    max_value: int = Field(
        default=0, ge=0, description="close when the open receipts are worth this; 0: never"
    )
    max_age_seconds: float = Field(default=300.0, gt=0)
    min_age_seconds: float = Field(default=30.0, ge=0, description="no batch for its worth before that")
    native_price: int = Field(
        default=0,
        ge=0,
        description="what one ether is worth in base units; 0: batches close without asking for gas",
    )
    gas_share: float = Field(
        default=0.02, gt=0, le=1, description="gas may cost this part of what a batch brings before it is old"
    )
    keep_days: int = Field(
        default=0, ge=0, description="drop receipts so long after their batch was posted; 0: never"
    )
    free_receipts: bool = Field(default=False, description="post batches of unpaid receipts alone, too")
    min_claim: int = Field(default=1, ge=1)
    poll_seconds: float = Field(default=2.0, gt=0)

    @property
    def keep_seconds(self) -> int | None:
        """After its posting, how long a batch's receipts are kept; None: for ever."""
        return self.keep_days * 86_400 or None

    @property
    def thaw_margin_seconds(self) -> int:
        """Escrow that can leave within this time covers nothing: a batch is open for `max_age_seconds` before
        it is posted, and posting it takes time."""
        return math.ceil(self.max_age_seconds) + POSTING_SECONDS


class GrpcConfig(Section):
    """The Open Inference Protocol over gRPC, at the same host as HTTP."""

    port: int = Field(default=0, ge=0, le=65535, description="0: no gRPC; 8001 is what its clients try first")
    buffer_mib: int = Field(
        default=512,
        ge=1,
        description="of messages being received, which grpc keeps until they are whole: half of it for as "
        "many calls at a time as have max_body_mib each, half for as many open streams; 64 KiB of each call "
        "beside that",
    )


class LogsConfig(Section):
    """Which requests get a line in the process's log."""

    requests: Requests = Field(
        default=Requests.FAILED, description="failed here or slow; refused ones as well; all"
    )
    slow_seconds: float = Field(default=1.0, gt=0)


class X402Config(Section):
    """Payment by plain HTTP clients (SPEC.md §12); off while `facilitator` is empty."""

    facilitator: str = Field(default="", description="URL of what verifies and settles the payments")
    payee: str = Field(
        default="", description="account that is paid, for this node alone; empty: the operator"
    )
    min_price: int = Field(default=1, ge=1, description="cheaper versions take vouchers alone; base units")
    confirmations: int = Field(
        default=1, ge=1, le=256, description="blocks before an answer leaves; 1: mined"
    )
    max_timeout_seconds: int = Field(default=120, ge=10, le=3600, description="what clients sign for")
    verify_seconds: float = Field(default=8.0, gt=0, le=60)
    settle_seconds: float = Field(default=45.0, gt=0, le=300, description="each wait for the chain")
    max_waiting: int = Field(
        default=64,
        ge=1,
        description="payments in work that are verified, parted among payers; as many again that are not, or "
        "are repeated, among hosts; as many repeated ones, among payers, where their host has no place left",
    )
    token_name: str = Field(default="", description="EIP-712 name of the token, if it does not tell it")
    token_version: str = ""

    @field_validator("payee")
    @classmethod
    def _address(cls, value: str) -> str:
        return checksum_address(value) if value else ""


class NodeConfig(Section):
    """The whole file."""

    operator: str
    endpoint: str = Field(min_length=1, max_length=256)
    host: str = "127.0.0.1"
    port: int = Field(default=8601, ge=0, le=65535)
    signer: str = Field(default="signer.json", description="keystore of the hot key, a path or an Ape alias")
    password_file: str = "signer.password"  # noqa: S105 - a file name
    rpc_urls: list[str] = Field(min_length=1)
    chain_id: int = Field(ge=1)
    deployments: str
    hub_url: str
    run_threads: int = Field(
        default=0, ge=0, description="runs of one version at the same time; 0: one less than there are cores"
    )
    session_threads: int = Field(default=1, ge=1, description="threads of one run")
    view_max_age_seconds: float = Field(default=30.0, gt=0)
    serve_offers: bool = Field(
        default=False, description="serve whatever this node offers on the chain, listed below or not"
    )
    memory: MemoryConfig = MemoryConfig()
    versions: list[VersionConfig] = []
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()
    engines: EnginesConfig = EnginesConfig()
    settlement: SettlementConfig = SettlementConfig()
    grpc: GrpcConfig = GrpcConfig()
    x402: X402Config = X402Config()
    logs: LogsConfig = LogsConfig()

    @field_validator("operator")
    @classmethod
    def _address(cls, value: str) -> str:
        return checksum_address(value)

    @field_validator("endpoint")
    @classmethod
    def _reachable(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be the URL at which consumers reach this node, as in https://node.example")
        return value

    @property
    def node(self) -> Address:
        return Address(self.operator)


def load_config(folder: Path) -> NodeConfig:
    """Raises ConfigurationError that names the file and the field."""
    path = folder / FILE
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"there is no {path}; run `assay node init --data {folder}` first") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}; correct it") from None
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], where: str) -> NodeConfig:
    """Raises ConfigurationError."""
    try:
        return NodeConfig.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_input=False)[:10]
        )
        raise ConfigurationError(f"{where}: {problems}; correct it") from None


def write_config(folder: Path, config: NodeConfig) -> Path:
    """Write `node.toml` whole or not at all; values that are the default are left out of its sections."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    write_whole(path, render_config(config))
    return path


def render_config(config: NodeConfig) -> str:
    """TOML that `load_config` reads back as the same configuration."""
    sections = [name for name, field in NodeConfig.model_fields.items() if isinstance(field.default, Section)]
    data = config.model_dump(exclude={"versions", *sections})
    lines = ["# Settings of this node; `assay node doctor` checks them.", *_assignments(data)]
    for name in sections:
        section = getattr(config, name).model_dump(exclude_defaults=True)
        if section:
            lines += ["", f"[{name}]", *_assignments(section)]
    for version in config.versions:
        lines += ["", "[[versions]]", *_assignments(_told(version))]
    return "\n".join(lines) + "\n"


def _told(version: VersionConfig) -> dict[str, Any]:
    """What a reader looks for in every version, and what is not the default."""
    return {"publisher": version.publisher, "name": version.name, "number": version.number} | {
        "price": version.price,
        **version.model_dump(exclude_defaults=True),
    }


def _assignments(data: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in data.items()]


def _toml(value: Any) -> str:
    """Strings, numbers, booleans and lists of strings look the same in TOML and in JSON."""
    return json.dumps(value, ensure_ascii=False)


def resolve_path(folder: Path, value: str) -> Path:
    """A path of the configuration: as it is if absolute, else inside the node's folder."""
    path = Path(value).expanduser()
    return path if path.is_absolute() else folder / path
