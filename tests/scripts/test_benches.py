from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.benches.__main__ import check_rows, show, write_rows


def row(name: str, value: float = 1.0) -> dict[str, object]:
    return {"name": name, "value": value, "unit": "gas", "reference": 2.0, "ratio": value / 2.0}


def test_write_rows__file_with_other_rows__keeps_them_and_replaces_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "bench.json"
    write_rows(path, [row("a"), row("b")])
    write_rows(path, [row("b", 4.0), row("c")])
    assert json.loads(path.read_text()) == [row("a"), row("b", 4.0), row("c")]


def test_check_rows__field_missing__names_the_bench() -> None:
    with pytest.raises(ValueError, match="bench gas: a row has the fields"):
        check_rows("gas", [row("a"), {"name": "b", "value": 1}])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (17_500, "17,500"), (12_345.6, "12,346"), (0.51234, "0.512"), ("gas", "gas")],
)
def test_show__value__is_readable(value: object, shown: str) -> None:
    assert show(value) == shown
