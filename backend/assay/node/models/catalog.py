"""The versions that a node serves, and how requests name them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from assay.node.engines.engine import Engine, ExecutorStatistics
from assay.node.errors import NotFound, Unavailable
from assay.node.models.exactness import ExactTerms
from assay.node.oip.statistics import RequestStatistics
from assay.types import Address, Assurance, Hash32, TensorSpec

_PUBLISHER: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_ACTIONS: Final = ("infer", "ready")
LOADING: Final = "still loading"
REMEMBERED_ROUTES: Final = 4096
LOAD_OUTCOMES: Final = ("loaded", "no_room", "failed", "refused")


class VersionState(StrEnum):
    """The words of the model repository extension of the Open Inference Protocol."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"


@dataclass(slots=True)
class Loads:
    """Attempts to bring a version into memory, by what came of them: `loaded`, `no_room`, `failed` (it is
    tried again), `refused`. `seconds` of the last that succeeded; `evictions`: it made room for others."""

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOAD_OUTCOMES, 0))
    seconds: float = 0.0
    evictions: int = 0

    def ended(self, outcome: str) -> None:
        self.outcomes[outcome] += 1


@dataclass(slots=True)
class Served:
    """A version in the catalogue. `engine` None: not loaded (yet), `problem` says why.

    `state`, `problem`, `loads` and `executor` are the `lifecycle.Lifecycle`'s to change.
    """

    version_id: Hash32
    publisher: Address
    name: str
    number: int
    assurance: Assurance
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    engine: Engine | None = None
    exact: ExactTerms | None = None
    """What requests are held to; there on every loaded exact version."""
    problem: str = LOADING
    state: VersionState = VersionState.LOADING
    on_asked: Callable[[Served], Unavailable] | None = None
    """Called when it is asked for and not loaded; gives what to refuse the request with."""
    requests: RequestStatistics = field(default_factory=RequestStatistics)
    loads: Loads = field(default_factory=Loads)
    executor: ExecutorStatistics | None = None
    """The other server that runs it, also while it is down."""

    def refusal(self, *, asked: bool = True) -> Unavailable:
        """Why a request for it is refused while it is not loaded; `asked`: somebody wants to use it, so it is
        loaded, if that helps."""
        if asked and self.on_asked is not None:
            return self.on_asked(self)
        return Unavailable(
            f"{self.full_name} version {self.number} is not loaded: {self.problem}", retry_after=5
        )

    @property
    def full_name(self) -> str:
        return f"{self.publisher}/{self.name}"

    @property
    def is_loading(self) -> bool:
        """Neither loaded nor refused yet: the node is not ready while a version of it is."""
        return self.engine is None and self.problem == LOADING

    def metadata(self, name: str, versions: list[str]) -> dict[str, Any]:
        """The model metadata response of the Open Inference Protocol."""

        def tensors(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
            return [{"name": s.name, "datatype": s.dtype, "shape": list(s.shape)} for s in specs]

        return {
            "name": name,
            "versions": versions,
            "platform": "onnxruntime_onnx",
            "inputs": tensors(self.inputs),
            "outputs": tensors(self.outputs),
        }


class Route(NamedTuple):
    """What a `/v2/models/…` path asks for: `action` is empty for the metadata."""

    name: str
    number: int | None
    action: str


def parse_model_path(raw: bytes) -> Route | None:
    """The part of a request's raw path after `/v2/models/`.

    A name is `publisher%2Fname`, `publisher/name` (how clients that leave slashes alone quote it) or a bare
    `name`.
    """
    try:
        parts = [unquote(part, errors="strict") for part in raw.decode("ascii").split("/")]
    except UnicodeDecodeError:
        return None
    if len(parts) > 1 and _PUBLISHER.fullmatch(parts[0]):
        parts[:2] = [f"{parts[0]}/{parts[1]}"]
    name, rest = parts[0], parts[1:]
    number: int | None = None
    if len(rest) >= 2 and rest[0] == "versions":
        if not rest[1].isascii() or not rest[1].isdecimal() or len(rest[1]) > 9:
            return None
        number, rest = int(rest[1]), rest[2:]
    if not name or len(rest) > 1 or (rest and rest[0] not in _ACTIONS):
        return None
    return Route(name, number, rest[0] if rest else "")


class Catalog:
    """Versions by id and by wire name. Names are matched without regard to the case of the publisher's
    digits."""

    def __init__(self, versions: Iterable[Served] = ()) -> None:
        self._by_id: dict[Hash32, Served] = {}
        self._by_name: dict[str, dict[int, Served]] = {}
        self._publishers: dict[str, set[Address]] = {}
        self._found: dict[Route, Served] = {}
        """What routes name, of those that were asked for of late."""
        for served in versions:
            self.add(served)

    def add(self, served: Served) -> None:
        self._found.clear()
        self._by_id[served.version_id] = served
        self._by_name.setdefault(served.full_name.lower(), {})[served.number] = served
        self._publishers.setdefault(served.name, set()).add(served.publisher)

    def __iter__(self) -> Iterator[Served]:
        return iter(tuple(self._by_id.values()))

    def version_ids(self) -> tuple[Hash32, ...]:
        return tuple(self._by_id)

    def get(self, version_id: Hash32) -> Served:
        """Raises NotFound `model_unknown`."""
        try:
            return self._by_id[version_id]
        except KeyError:
            raise NotFound(
                f"this node does not serve version 0x{version_id.hex()}; see GET /v1/node",
                code="model_unknown",
            ) from None

    def versions(self, name: str) -> dict[int, Served]:
        """By number, all versions served under a wire name. Raises NotFound `model_unknown`."""
        full = name.lower()
        if "/" not in name:
            publishers = self._publishers.get(name, set())
            if len(publishers) > 1:
                raise NotFound(
                    f"several publishers have a model {name!r}: ask for one of "
                    + ", ".join(sorted(f"{publisher}/{name}" for publisher in publishers)),
                    code="model_unknown",
                )
            full = f"{next(iter(publishers), '')}/{name}".lower()
        found = self._by_name.get(full)
        if not found:
            raise NotFound(
                f"this node does not serve a model {name[:120]!r}; see GET /v1/node", code="model_unknown"
            )
        return found

    def find(self, route: Route) -> Served:
        """The version that a route names, the greatest served number without one. Raises NotFound
        `model_unknown`."""
        found = self._found.get(route)
        return self._look(route) if found is None else found

    def _look(self, route: Route) -> Served:
        versions = self.versions(route.name)
        number = max(versions) if route.number is None else route.number
        if number not in versions:
            raise NotFound(
                f"this node does not serve version {number} of {route.name!r}, only "
                + ", ".join(map(str, sorted(versions))),
                code="model_unknown",
            )
        if len(self._found) >= REMEMBERED_ROUTES:
            self._found.clear()
        self._found[route] = versions[number]
        return versions[number]
