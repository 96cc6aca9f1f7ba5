"""SPEC.md §11's calls and events are those of the interface, argument by argument."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SPEC = (ROOT / "contracts/SPEC.md").read_text().split("## 11. Dispute game")[1]
INTERFACE = (ROOT / "contracts/interfaces/IDisputeGame.vyi").read_text()
FUNCTION = re.compile(r"^def (\w+)\((.*?)\)(?: -> \w+)?:", re.M | re.S)
EVENT = re.compile(r"^event (\w+):\n((?:    \w+: .+\n)+)", re.M)
FRAUDS = ("prove_equivocation", "prove_contradiction")


def plain(vyper: str) -> str:
    """An argument's type as SPEC.md spells it."""
    name = vyper.removeprefix("ISettlement.").removeprefix("IStepVerifier.")
    while found := re.fullmatch(r"DynArray\[(.+), \d+\]", name):
        name = f"{plain(found[1])}[]"
    return re.sub(r"^Bytes\[\d+\]", "bytes", name)


def arguments_of(text: str) -> list[str]:
    """`type name` of each argument of a Vyper signature."""
    pairs = (one.split(":", 1) for one in re.split(r",\s*(?=\w+:)", text.strip().rstrip(",")))
    return [f"{plain(kind.strip())} {name.strip()}" for name, kind in pairs]


def specified_calls() -> dict[str, list[str]]:
    """By function, what SPEC.md's table of calls says."""
    table = SPEC.split("| call | further arguments |")[1].split("\n\n")[0]
    found = {}
    for row in table.splitlines()[2:]:
        names, text = row.strip("| ").split(" | ", 1)
        listed = re.findall(r"`([^`]+)`", text)
        for name in re.findall(r"`(\w+)", names):
            found[name] = listed[0].split(", ")
    return found


def test_calls__of_the_table__are_the_interfaces() -> None:
    expected = {name: arguments_of(text) for name, text in FUNCTION.findall(INTERFACE)}
    expected.pop("claim")  # told in the text
    opening = ["uint256 dispute_id", "State state"]
    specified = {
        name: listed if name in ("open", *FRAUDS) else opening + listed
        for name, listed in specified_calls().items()
    }
    assert specified == expected


def test_state__order_and_types__are_the_interfaces() -> None:
    struct = INTERFACE.split("struct State:\n")[1].split("\n\n")[0]
    fields = [line.strip().split(": ") for line in struct.splitlines()]
    kinds = [kind for _, kind in fields]
    assert f"`State`, {len(fields)} words: `{' '.join(name for name, _ in fields)}`" in SPEC
    assert kinds == ["address"] * 2 + ["bytes32"] * 7 + ["uint256"] * 12 + ["int256"] * 2


def test_events__each__are_told_with_their_fields() -> None:
    told = SPEC.split("\nEvents: ")[1].split("\n\n")[0]
    for name, body in EVENT.findall(INTERFACE):
        (fields,) = re.findall(rf"`{name}`[^(`]*`\w+\((.*?)\)`|`{name}\((.*?)\)`", told)
        listed = [
            one.split()[-1] if "indexed" not in one else one.split()[0] for one in "".join(fields).split(", ")
        ]
        assert listed == [line.split(":")[0].strip() for line in body.splitlines()], name
