"""What a running node tells its operator of itself."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson
import pytest
from assay.node.engines.engine import ExecutorStatistics
from assay.node.errors import OperatorOnly
from assay.node.http.messages import Request
from assay.node.models.catalog import Catalog, Served, VersionState
from assay.node.operator_token import OperatorToken
from assay.node.standing import PATH, StandingRoute
from assay.types import Address, Assurance, Hash32

from tests.support.engines import collapsing_model, engine_of, run_all

PUBLISHER = Address("0x" + "11" * 20)
TOKEN = OperatorToken("a-token-of-more-than-twenty-letters")


def served(number: int, **fields: Any) -> Served:
    return Served(Hash32(bytes([number]) * 32), PUBLISHER, "m", number, Assurance.SIGNED, **fields)


def standing(catalog: Catalog, *, token: str = TOKEN.value) -> dict[str, Any]:
    route = StandingRoute(catalog, TOKEN, lambda: True)
    headers = {b"authorization": b"Bearer " + token.encode()} if token else {}
    reply = asyncio.run(route.standing(Request("GET", PATH.encode(), b"", headers, "127.0.0.1")))
    return dict(orjson.loads(reply.body))


@pytest.mark.parametrize("token", ["", "another-token-of-more-than-twenty"])
def test_standing__without_the_operators_token__is_refused(token: str) -> None:
    with pytest.raises(OperatorOnly):
        standing(Catalog(), token=token)


def test_standing__batching_that_a_run_ended__says_so_and_why() -> None:
    one = served(1, state=VersionState.READY, problem="")

    async def scenario() -> None:
        one.engine = engine = engine_of(collapsing_model())
        await run_all(engine, [(np.zeros((1, 2), np.float32),)] * 2)

    asyncio.run(scenario())
    found = standing(Catalog([one]))
    assert found["settles"] is True
    (version,) = found["versions"]
    assert (version["model"], version["state"]) == (f"{PUBLISHER}/m@1", "READY")
    assert version["batching"]["max_rows"] == 1
    assert "other rows than went in" in version["batching"]["reason"]
    assert version["executor"] is None


def test_standing__executor_that_is_down__is_told_though_nothing_is_served() -> None:
    one = served(1, problem="its executor does not answer")
    one.executor = ExecutorStatistics("http://10.0.0.1:8000", "its executor does not answer")
    one.executor.failed("connection")
    (version,) = standing(Catalog([one]))["versions"]
    assert version["batching"] is None
    assert version["executor"] == {
        "url": "http://10.0.0.1:8000",
        "up": False,
        "problem": "its executor does not answer",
        "failures": {"connection": 1},
        "p99_seconds": None,
    }
