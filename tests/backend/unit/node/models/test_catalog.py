"""How requests name versions."""

from __future__ import annotations

import pytest
from assay.commitments import identifiers
from assay.commitments.signing import SigningKey
from assay.node.errors import NotFound
from assay.node.models.catalog import Catalog, Route, Served, parse_model_path
from assay.types import Address, Assurance

ANNA = SigningKey(b"\x01" * 32).address
BOB = SigningKey(b"\x02" * 32).address


def served(publisher: Address, name: str, number: int) -> Served:
    version_id = identifiers.version_id(identifiers.model_id(publisher, name), number)
    return Served(version_id, publisher, name, number, Assurance.SIGNED)


CATALOG = Catalog(
    [served(ANNA, "digits", 1), served(ANNA, "digits", 3), served(ANNA, "x", 1), served(BOB, "x", 1)]
)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("digits", Route("digits", None, "")),
        ("digits/infer", Route("digits", None, "infer")),
        ("digits/versions/3", Route("digits", 3, "")),
        ("digits/versions/3/infer", Route("digits", 3, "infer")),
        ("digits/versions/3/ready", Route("digits", 3, "ready")),
        (f"{ANNA}%2Fdigits/infer", Route(f"{ANNA}/digits", None, "infer")),
        (f"{ANNA}/digits/versions/3/infer", Route(f"{ANNA}/digits", 3, "infer")),
        ("infer", Route("infer", None, "")),
        ("infer/infer", Route("infer", None, "infer")),
        ("versions/versions/1", Route("versions", 1, "")),
    ],
)
def test_parse_model_path__every_form__is_read(path: str, route: Route) -> None:
    assert parse_model_path(path.encode()) == route


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/infer",
        "digits/",
        "digits/stats",
        "digits/versions/x/infer",
        "digits/versions/²",
        "digits/infer/more",
        "digits/versions/9999999999",
        "%ff/infer",
        "digits/versions",
    ],
)
def test_parse_model_path__anything_else__is_nothing(path: str) -> None:
    assert parse_model_path(path.encode("latin-1")) is None


def test_find__no_version_named__is_the_greatest_number() -> None:
    assert CATALOG.find(Route("digits", None, "")).number == 3


def test_find__version_or_publisher_comes_later__is_seen() -> None:
    catalog = Catalog([served(ANNA, "digits", 1)])
    assert catalog.find(Route("digits", None, "")).number == 1
    catalog.add(served(ANNA, "digits", 2))
    assert catalog.find(Route("digits", None, "")).number == 2
    catalog.add(served(BOB, "digits", 1))
    with pytest.raises(NotFound, match="several publishers"):
        catalog.find(Route("digits", None, ""))


def test_find__publisher_in_any_case__is_found() -> None:
    assert CATALOG.find(Route(f"{ANNA.lower()}/x", 1, "")).publisher == ANNA
    assert CATALOG.find(Route(f"{BOB}/x", 1, "")).publisher == BOB


@pytest.mark.parametrize(
    "route",
    [Route("x", 1, ""), Route("digits", 2, ""), Route("none", None, ""), Route(f"{BOB}/digits", 1, "")],
)
def test_find__unknown_or_ambiguous__is_model_unknown(route: Route) -> None:
    with pytest.raises(NotFound) as caught:
        CATALOG.find(route)
    assert caught.value.code == "model_unknown"


def test_is_loading__until_loaded_or_refused() -> None:
    version = served(ANNA, "digits", 1)
    assert version.is_loading
    version.problem = "refused (external_data)"
    assert not version.is_loading
