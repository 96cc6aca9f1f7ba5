from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import boa
import pytest
from eth.exceptions import Revert
from eth_abi import encode
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.contracts import ZERO, events, fields

NAME_ERROR = "models: name must be 1 to 64 characters of a-z 0-9 - _ ."


def test_register_model__new_name__stores_and_logs(models: Any, publisher: str) -> None:
    model_id = models.register_model("digits-v_1.x", "ipfs://card", sender=publisher)
    assert events(models) == [
        (
            "ModelRegistered",
            {
                "model_id": model_id,
                "publisher": publisher,
                "name": "digits-v_1.x",
                "metadata_uri": "ipfs://card",
            },
        )
    ]
    assert model_id == keccak(encode(["address", "string"], [publisher, "digits-v_1.x"]))
    assert model_id == models.model_id_of(publisher, "digits-v_1.x")
    assert fields(models.models(model_id)) == {
        "publisher": publisher,
        "pending_publisher": ZERO,
        "payee": publisher,
        "version_count": 0,
        "name": "digits-v_1.x",
        "metadata_uri": "ipfs://card",
    }


def test_register_model__same_name_again__reverts(models: Any, register_model: Callable[..., bytes]) -> None:
    register_model("digits")
    with boa.reverts("models: model is already registered"):
        register_model("digits")


def test_register_model__same_name_other_publisher__is_another_model(
    register_model: Callable[..., bytes], stranger: str
) -> None:
    assert register_model("digits") != register_model("digits", by=stranger)


def test_register_model__name_handed_over__stays_taken(
    models: Any, register_model: Callable[..., bytes], publisher: str, stranger: str
) -> None:
    model_id = register_model("digits")
    models.transfer_model(model_id, stranger, sender=publisher)
    models.accept_model(model_id, sender=stranger)
    with boa.reverts("models: model is already registered"):
        register_model("digits")


def test_register_model__paused__reverts_until_resumed(
    models: Any, register_model: Callable[..., bytes], owner: str
) -> None:
    models.set_paused(True, sender=owner)
    with boa.reverts("models: registration is paused"):
        register_model("digits")
    models.set_paused(False, sender=owner)
    register_model("digits")


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "a/b", "ä", "a\n", "\x00", "a" * 63 + "Z", "a:b", "`", "{", ","]
)
def test_register_model__name_outside_charset__reverts(
    name: str, register_model: Callable[..., bytes]
) -> None:
    with boa.reverts(NAME_ERROR):
        register_model(name)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64])
def test_register_model__name_of_allowed_length__is_accepted(
    length: int, models: Any, register_model: Callable[..., bytes]
) -> None:
    assert models.models(register_model("z" * length)).name == "z" * length


def test_register_model__every_single_byte__agrees_with_the_rule(models: Any, publisher: str) -> None:
    accepted = set()
    for code in range(128):
        with boa.env.anchor():
            try:
                models.register_model(chr(code), "", sender=publisher)
                accepted.add(chr(code))
            except boa.BoaError:
                pass
    assert accepted == set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


@settings(max_examples=60, deadline=None)
@given(name=st.one_of(st.from_regex(r"[a-z0-9\-_.]{0,64}", fullmatch=True), st.text(max_size=16)))
def test_register_model__any_name__accepted_exactly_if_it_matches(
    models: Any, publisher: str, name: str
) -> None:
    if re.fullmatch(r"[a-z0-9\-_.]{1,64}", name):
        models.register_model(name, "", sender=publisher)
    else:
        with boa.reverts(NAME_ERROR):
            models.register_model(name, "", sender=publisher)


def test_register_model__encoded_name_of_65__reverts(models: Any, publisher: str) -> None:
    data = models.register_model.prepare_calldata("a" * 64, "")
    models.env.raw_call(models.address, sender=publisher, data=data)
    longer = data.replace((64).to_bytes(32) + b"a" * 64, (65).to_bytes(32) + b"a" * 65 + bytes(31))
    assert longer != data
    with pytest.raises(Revert):
        models.env.raw_call(models.address, sender=publisher, data=longer)
