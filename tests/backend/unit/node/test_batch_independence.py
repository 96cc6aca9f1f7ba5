"""An exact answer is the same, bit for bit, however it was batched: with whom, where, in a thread or not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from assay.commitments.tensors import OIP_TO_NUMPY, commit_tensors
from assay.exact.evaluator import evaluate
from assay.exact.lowering import lower
from assay.exact.program import Program
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.engines import IN_LOOP, IN_THREAD, Array, engine_of, runner_of, submit
from tests.support.exact_models import DIGITS
from tests.support.exact_version import exact_model
from tests.support.onnx_models import convolution_model
from tests.support.random_networks import random_network

DEEP = bool(os.environ.get("ASSAY_DEEP"))
NETWORKS = range(40 if DEEP else 2)


@dataclass(frozen=True)
class Subject:
    artifact: bytes
    program: Program

    def request(self, rows: int, seed: int) -> tuple[Array, ...]:
        """Random rows; every third request of the extremes alone."""
        random = np.random.default_rng([rows, seed])
        made: list[Array] = []
        for spec in runner_of(self.artifact, optimised=False).inputs:
            dtype, shape = OIP_TO_NUMPY[spec.dtype], (rows, *spec.shape[1:])
            if dtype.kind == "f":
                made.append((random.normal(size=shape) * 10.0 ** (seed % 5 - 2)).astype(dtype))
            elif seed % 3 == 0:
                made.append(random.choice(np.array([0, np.iinfo(dtype).max], dtype), size=shape))
            else:
                made.append(random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True))
        return tuple(made)


def network(seed: int) -> bytes:
    return random_network(seed).artifact


ARTIFACTS: dict[str, Callable[[], bytes]] = {
    "digits": DIGITS.read_bytes,
    "convolution": lambda: convolution_model(side=9, channels=4),
    "product": exact_model,
    **{f"network {seed}": partial(network, seed) for seed in NETWORKS},
}


@cache
def subject(name: str) -> Subject:
    artifact = ARTIFACTS[name]()
    return Subject(artifact, lower(artifact))


@cache
def alone(name: str, rows: int, seed: int) -> tuple[bytes, ...]:
    """The request's outputs by a run of its own, which are the exact evaluator's."""
    it = subject(name)
    request = it.request(rows, seed)
    single = runner_of(it.artifact, optimised=False).run(request)
    exact = evaluate(it.program, request)
    assert commit_tensors(single) == commit_tensors(exact)
    return tuple(array.tobytes() for array in single)


turns = st.lists(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 11)), max_size=6), min_size=1, max_size=6
)
"""What is submitted in each turn of the event loop: (rows, seed) of requests."""


@pytest.mark.parametrize("name", ARTIFACTS)
@settings(max_examples=200 if DEEP else 15, deadline=None)
@given(turns, st.integers(1, 12), st.sampled_from([IN_LOOP, IN_THREAD]), st.integers(1, 3))
def test_submit__any_interleaving__gives_each_request_its_own_bytes(
    name: str, work: list[list[tuple[int, int]]], max_rows: int, inline_seconds: float, lanes: int
) -> None:
    async def scenario() -> list[tuple[tuple[int, int], Any]]:
        engine = engine_of(
            subject(name).artifact,
            max_rows=max_rows,
            optimised=False,
            inline_seconds=inline_seconds,
            lanes=lanes,
        )
        waiting = []
        for turn in work:
            for rows, seed in turn:
                waiting.append(((rows, seed), submit(engine, *subject(name).request(rows, seed))[1]))
            await asyncio.sleep(0)
        await engine.close()
        return [(asked, outcome) for asked, (outcome,) in waiting]

    for (rows, seed), result in asyncio.run(scenario()):
        assert tuple(array.tobytes() for array in result.outputs) == alone(name, rows, seed)
        assert result.output_hash == commit_tensors(result.outputs)
