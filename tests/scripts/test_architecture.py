"""ARCHITECTURE.md's tree names every module of the package, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "backend" / "assay"
FOLDER = re.compile(r"^( {2}| {4})(\w+)/")
MODULE = re.compile(r"(?<![\w/])\w+\.py\b")


def named_modules(text: str) -> set[str]:
    """Paths below `backend/assay` that the first code block names."""
    found, package = set(), ""
    for line in text.split("```")[1].splitlines()[2:]:
        folder = FOLDER.match(line)
        if folder and len(folder[1]) == 2:
            package = folder[2] + "/"
            continue
        inner = folder[2] + "/" if folder else ""
        prefix = package if line.startswith("    ") else ""
        found |= {prefix + inner + name for name in MODULE.findall(line)}
    return found


def test_named_modules__folders_and_several_a_line__are_read() -> None:
    tree = "  a.py  says c.py\n  p/  words\n    b.py d.py  of x/e.py\n    sub/ f.py g.py\n"
    assert named_modules(f"\n```\nbackend/assay/\n{tree}```") == {
        "a.py",
        "c.py",
        "p/b.py",
        "p/d.py",
        "p/sub/f.py",
        "p/sub/g.py",
    }


def test_architecture__tree__is_what_is_there() -> None:
    named = named_modules((ROOT / "backend" / "ARCHITECTURE.md").read_text())
    modules = (path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    there = {str(path) for path in modules if path.name != "__init__.py" and "versions" not in path.parts}
    assert there - named == set(), "ARCHITECTURE.md does not name them"
    assert named - there == set(), "ARCHITECTURE.md names them, but they are not there"
