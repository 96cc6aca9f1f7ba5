"""The operator's repository, statistics and configurations, over a catalogue whose lifecycle only notes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from assay.commitments.identifiers import model_id, version_id
from assay.node.engines.engine import EngineStatistics
from assay.node.errors import InputError, LoadRefused, NotFound
from assay.node.models.catalog import Catalog, Route, Served, VersionState
from assay.node.oip.model_config import model_config
from assay.node.oip.repository import Repository
from assay.node.oip.statistics import RequestStatistics, model_statistics
from assay.types import Address, Assurance, TensorSpec

PUBLISHER = Address("0x00000000000000000000000000000000000000A1")
SPECS = (TensorSpec("x", "BYTES", (-1, 2)), TensorSpec("z", "FP16", (3,)))


def served(name: str, number: int, state: VersionState = VersionState.READY) -> Served:
    return Served(
        version_id=version_id(model_id(PUBLISHER, name), number),
        publisher=PUBLISHER,
        name=name,
        number=number,
        assurance=Assurance.SIGNED,
        inputs=SPECS,
        outputs=(TensorSpec("y", "UINT8", (-1,)),),
        problem="" if state is VersionState.READY else "a reason",
        state=state,
    )


@dataclass
class NotingLifecycle:
    refuses: frozenset[int] = frozenset()
    calls: list[tuple[str, str, int]] = field(default_factory=list)

    async def load(self, version: Served) -> None:
        self.calls.append(("load", version.name, version.number))
        if version.number in self.refuses:
            raise LoadRefused(f"version {version.number} does not load")

    async def unload(self, version: Served) -> None:
        self.calls.append(("unload", version.name, version.number))


@dataclass
class CountingEngine:
    statistics: EngineStatistics


VERSIONS = (served("b", 2), served("a", 1, VersionState.UNAVAILABLE), served("b", 1))


def repository(lifecycle: NotingLifecycle | None = None) -> Repository:
    return Repository(Catalog(VERSIONS), lifecycle or NotingLifecycle())


def test_index__all__by_name_and_number_with_state_and_reason() -> None:
    assert repository().index() == [
        {"name": f"{PUBLISHER}/a", "version": "1", "state": "UNAVAILABLE", "reason": "a reason"},
        {"name": f"{PUBLISHER}/b", "version": "1", "state": "READY", "reason": ""},
        {"name": f"{PUBLISHER}/b", "version": "2", "state": "READY", "reason": ""},
    ]


def test_index__ready_alone__without_the_others() -> None:
    assert [entry["name"] for entry in repository().index(ready=True)] == [f"{PUBLISHER}/b"] * 2


def test_index__of_a_named_repository__empty() -> None:
    assert repository().index(repository="other") == []


@pytest.mark.parametrize("name", ["b", f"{PUBLISHER}/b", f"{PUBLISHER.lower()}/b"])
def test_load__a_name__all_its_versions(name: str) -> None:
    lifecycle = NotingLifecycle()
    asyncio.run(repository(lifecycle).load(name, {}))
    assert sorted(lifecycle.calls) == [("load", "b", 1), ("load", "b", 2)]


@pytest.mark.parametrize("number", [2, "2"])
def test_unload__with_a_version__that_one(number: Any) -> None:
    lifecycle = NotingLifecycle()
    asyncio.run(repository(lifecycle).unload("b", {"version": number, "unload_dependents": False}))
    assert lifecycle.calls == [("unload", "b", 2)]


@pytest.mark.parametrize("number", [3, "x", "-1", 1.5, True])
def test_load__unknown_version__refused(number: Any) -> None:
    with pytest.raises(NotFound, match="only 1, 2"):
        asyncio.run(repository().load("b", {"version": number}))


def test_load__unknown_name__refused() -> None:
    with pytest.raises(NotFound):
        asyncio.run(repository().load("c", {}))


def test_load__other_parameters__refused() -> None:
    with pytest.raises(InputError) as caught:
        asyncio.run(repository().load("b", {"config": "{}"}))
    assert caught.value.code == "input_unsupported"


def test_load__some_versions_refused__all_tried_and_the_reasons_told() -> None:
    one, both = NotingLifecycle(frozenset({1})), NotingLifecycle(frozenset({1, 2}))
    with pytest.raises(LoadRefused, match=r"^version 1 does not load$"):
        asyncio.run(repository(one).load("b", {}))
    assert len(one.calls) == 2
    with pytest.raises(LoadRefused, match=r"version [12] does not load; version [12] does not load"):
        asyncio.run(repository(both).load("b", {}))


def test_model_statistics__nothing_done__zeros() -> None:
    (found,) = model_statistics(Catalog([served("c", 1)]), Route("c", None, ""))
    assert (found["name"], found["version"], found["last_inference"]) == ("c", "1", 0)
    assert found["batch_stats"] == [] and found["execution_count"] == 0
    assert all(duration == {"count": 0, "ns": 0} for duration in found["inference_stats"].values())


def test_model_statistics__requests_and_runs__in_tritons_terms() -> None:
    version = served("c", 1)
    done = EngineStatistics()
    done.ran(2, 8, 0.5)
    done.ran(1, 8, 0.25)
    done.ran(1, 1, 0.125)
    done.queue_seconds = 2.0
    version.engine = CountingEngine(done)  # type: ignore[assignment]
    version.requests.record(1.5, ok=True)
    version.requests.record(0.5, ok=False)
    (found,) = model_statistics(Catalog([version]), Route("c", 1, ""))
    assert (found["inference_count"], found["execution_count"]) == (17, 3)
    stats = found["inference_stats"]
    assert stats["success"] == {"count": 1, "ns": 1_500_000_000}
    assert stats["fail"] == {"count": 1, "ns": 500_000_000}
    assert stats["queue"] == {"count": 4, "ns": 2_000_000_000}
    assert stats["compute_infer"] == {"count": 3, "ns": 875_000_000}
    assert [(b["batch_size"], b["compute_infer"]) for b in found["batch_stats"]] == [
        (1, {"count": 1, "ns": 125_000_000}),
        (8, {"count": 2, "ns": 750_000_000}),
    ]
    assert found["last_inference"] > 1_700_000_000_000


def test_model_statistics__routes__pick_versions() -> None:
    catalog = Catalog(VERSIONS)
    assert [entry["version"] for entry in model_statistics(catalog, Route("b", None, ""))] == ["1", "2"]
    assert [entry["version"] for entry in model_statistics(catalog, Route("b", 2, ""))] == ["2"]
    assert len(model_statistics(catalog, None)) == 3
    with pytest.raises(NotFound):
        model_statistics(catalog, Route("b", 3, ""))


def test_request_statistics__fresh__knows_no_time() -> None:
    assert RequestStatistics().last_at == 0.0


def test_model_config__any_version__whole_shapes_and_tritons_types() -> None:
    found = model_config(VERSIONS[0], "b", [2, 1])
    assert found["input"] == [
        {"name": "x", "data_type": "TYPE_STRING", "dims": [-1, 2]},
        {"name": "z", "data_type": "TYPE_FP16", "dims": [3]},
    ]
    assert found["output"] == [{"name": "y", "data_type": "TYPE_UINT8", "dims": [-1]}]
    assert found["version_policy"] == {"specific": {"versions": [1, 2]}} and found["max_batch_size"] == 0
