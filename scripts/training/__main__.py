"""Write scripts/models/*/model.onnx, or with `--check` say whether they are what this script makes."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from .recipes import build_models

MODELS = Path(__file__).resolve().parents[1] / "models"


@click.command()
@click.option("--check", is_flag=True, help="train, then compare with the committed files byte for byte")
@click.option("--out", type=click.Path(path_type=Path), default=MODELS, help="folder to write to")
def main(check: bool, out: Path) -> None:
    """Train the demo's models (about 20 s) and write them as ONNX."""
    console = Console(stderr=True, highlight=False)
    with console.status("digits: loading") as status:
        models = build_models(status.update)
    stale = []
    for name, model in models.items():
        path, data = out / name / "model.onnx", model.SerializeToString(deterministic=True)
        if check:
            equal = path.is_file() and path.read_bytes() == data
            console.print(f"{'[green]equal[/green]' if equal else '[red]differs[/red]'} {path}")
            stale += [] if equal else [path]
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            console.print(f"wrote {path} ({len(data):,} bytes)")
    if stale:
        console.print(
            f"{len(stale)} of {len(models)} files are not what scripts/train makes: run it, commit the result"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
