"""Run halmos on proofs written in Vyper: `python -m tests.support.symbolic FOLDER CONTRACT`.

halmos reads the artifacts of `forge build`; `write_artifacts` writes the same for contracts that the Vyper
compiler built. Prints one JSON object: check -> exit code (0: holds for all inputs, 1: refuted, else: none).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ["abi", "bytecode", "bytecode_runtime", "method_identifiers"]


def write_artifacts(folder: Path, *sources: str) -> None:
    """Compile `sources` (paths in the repository) into `folder/out`."""
    from vyper.cli.vyper_compile import compile_files

    for source in sources:
        (built,) = compile_files([str(ROOT / source)], FORMATS, paths=[str(ROOT)]).values()
        name = Path(source).stem
        target = folder / "out" / f"{name}.sol" / f"{name}.json"
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps(_forge_artifact(name, source, built)))


def _forge_artifact(name: str, source: str, built: dict[str, Any]) -> dict[str, Any]:
    contract = {"nodeType": "ContractDefinition", "name": name, "contractKind": "contract", "nodes": []}
    return {
        "abi": built["abi"],
        "bytecode": {"object": built["bytecode"], "linkReferences": {}},
        "deployedBytecode": {"object": built["bytecode_runtime"], "linkReferences": {}},
        "methodIdentifiers": {
            signature: selector.removeprefix("0x").rjust(8, "0")
            for signature, selector in built["method_identifiers"].items()
        },
        "metadata": {"compiler": {"version": "0.4.3"}, "output": {"devdoc": {}}},
        "ast": {"nodeType": "SourceUnit", "absolutePath": source, "nodes": [contract]},
    }


def run(folder: Path, contract: str) -> dict[str, int]:
    from halmos.__main__ import _main
    from halmos.ui import UI

    UI.clear_live = lambda self: (
        None
    )  # halmos 0.3.0 pops an empty list with this rich; it only clears the screen
    arguments = ["--root", str(folder), "--contract", contract, "--function", "check_"]
    result = _main([*arguments, "--storage-layout", "generic", "--loop", "20"])
    return {test.name: test.exitcode for tests in result.test_results.values() for test in tests}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), sys.argv[2])))
