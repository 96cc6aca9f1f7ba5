"""The verifier and its harnesses on an Anvil of their own, where one HTTP request carries many calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.steps import OnAnvil, on_anvil


@pytest.fixture(scope="session")
def deployed() -> Iterator[dict[str, OnAnvil]]:
    names = ("StepVerifier", "Float32Harness", "ExpressionHarness")
    with on_anvil(*names) as contracts:
        yield dict(zip(names, contracts, strict=True))


@pytest.fixture(scope="session")
def verifier(deployed: dict[str, OnAnvil]) -> OnAnvil:
    return deployed["StepVerifier"]


@pytest.fixture(scope="session")
def floats(deployed: dict[str, OnAnvil]) -> OnAnvil:
    return deployed["Float32Harness"]


@pytest.fixture(scope="session")
def expressions(deployed: dict[str, OnAnvil]) -> OnAnvil:
    return deployed["ExpressionHarness"]
