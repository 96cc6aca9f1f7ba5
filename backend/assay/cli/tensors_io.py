"""Arrays in and out of files: `.npz`, `.npy`, JSON (nested lists, a dict of them, or an Open Inference
Protocol body).
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.commitments.tensors import OIP_TO_NUMPY
from assay.errors import RequestError

Arrays = dict[str, NDArray[Any]]
ENDINGS = (".npz", ".npy", ".json")
_NPY, _ZIP = b"\x93NUMPY", b"PK"


def read_inputs(source: str) -> NDArray[Any] | Arrays:
    """One array or arrays by name from a file, or standard input as `-`. Raises RequestError."""
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise RequestError(f"{source} cannot be read: {error.strerror}", code="input_file") from None
    try:
        if raw.startswith(_NPY):
            array: NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False)
            return array
        if raw.startswith(_ZIP):
            with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        return _from_json(json.loads(raw))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise RequestError(
            f"{source} is neither .npy, .npz nor JSON of numbers: {error}; save it with numpy.save or "
            "numpy.savez",
            code="input_file",
        ) from None


def _from_json(data: Any) -> NDArray[Any] | Arrays:
    if isinstance(data, dict) and isinstance(data.get("inputs"), list):
        return {str(item["name"]): _from_oip(item) for item in data["inputs"]}
    if isinstance(data, dict):
        return {name: np.asarray(value) for name, value in data.items()}
    return np.asarray(data)


def _from_oip(item: dict[str, Any]) -> NDArray[Any]:
    if item["datatype"] not in OIP_TO_NUMPY:
        raise ValueError(f"datatype {item['datatype']!r} is unknown")
    return np.asarray(item["data"], dtype=OIP_TO_NUMPY[item["datatype"]]).reshape(item["shape"])


def check_writable(path: Path, endings: Collection[str] = ()) -> None:
    """Raises RequestError: what shall be written there is paid for before."""
    if endings and path.suffix not in endings:
        raise RequestError(f"{path} has no ending that holds outputs; use .npz or .json", code="output_file")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise RequestError(f"{path} cannot be written; name a file in a folder of yours", code="output_file")


def write_outputs(path: Path, outputs: Arrays) -> None:
    """`.json`, `.npy` (a model of one output) or `.npz` by the file's ending. Raises RequestError."""
    if path.suffix == ".json":
        path.write_text(json.dumps(to_plain(outputs), indent=2) + "\n", encoding="utf-8")
    elif path.suffix == ".npy" and len(outputs) == 1:
        np.save(path, next(iter(outputs.values())), allow_pickle=False)
    elif path.suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **{name: _savable(array) for name, array in outputs.items()})
    else:
        raise RequestError(
            f"{path} has no ending that holds {len(outputs)} outputs; use .npz or .json", code="output_file"
        )


def _savable(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(str) if array.dtype == object else array


def to_plain(outputs: Arrays) -> dict[str, Any]:
    """Nested lists by name; strings decoded."""
    return {name: _plain(array.tolist()) for name, array in outputs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def summary(array: NDArray[Any], elements: int = 8) -> str:
    """The first elements, for a table."""
    flat = array.reshape(-1)
    shown = ", ".join(str(_plain(item)) for item in flat[:elements].tolist())
    return f"[{shown}{', …' if flat.size > elements else ''}]"
