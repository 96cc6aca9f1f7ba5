"""`assay model check` and `assay model quantize`: the exact profile for publishers."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from assay.cli.labelled import LABELS, Examples, accuracy, check_label_range, predictions, read_examples
from assay.cli.output import (
    command_errors,
    console,
    emit_json,
    emit_table,
    json_option,
    progress_console,
)
from assay.commitments.identifiers import artifact_digest, cid
from assay.errors import RequestError, VerificationError
from assay.exact.lowering import Report, check_model
from assay.exact.program import Program
from assay.node.models.validate import Inspection, inspect_artifact
from assay.programs.figures import Figures, figures_of

EXIT_OUTSIDE = 1
COMPARED_ROWS = 64
"""Rows on which the quantised model is run both ways before it is called exact."""
ROWS_AT_ONCE = 256
file_argument = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)


@click.command()
@file_argument
@json_option
@command_errors
def check(file: Path, as_json: bool) -> None:
    """Tell whether the ONNX file FILE is in the exact profile; if not, which nodes keep it out, and the cure.

    Exit code 0: it is, and its receipts can be `exact`. 1: it is not.
    """
    artifact = file.read_bytes()
    with progress_console().status("lowering"):
        report = check_model(artifact)
    if as_json:
        emit_json({"file": str(file), **described(artifact, report)})
    else:
        show_report(file.name, report)
    if not report.is_exact:
        sys.exit(EXIT_OUTSIDE)


def described(artifact: bytes, report: Report) -> dict[str, Any]:
    """What `check` says, for machines."""
    digest, program = artifact_digest(artifact), report.program
    return {
        "artifact": digest,
        "cid": cid(digest),
        "exact": report.is_exact,
        "program_root": None if program is None else program.root,
        "figures": None if program is None else asdict(figures_of(program)),
        "findings": [asdict(finding) for finding in report.findings],
    }


def show_report(name: str, report: Report) -> None:
    if report.program is None:
        rows = [(one.node or "the file", one.op_type, one.reason, one.cure) for one in report.findings]
        emit_table(f"{name} is outside the exact profile", ("node", "operator", "why", "what to do"), rows)
        console().print("it can be published, with receipts worth `signed`")
        return
    emit_table(f"{name} is in the exact profile", ("figure", "value"), _figure_rows(report.program))


def _figure_rows(program: Program) -> list[tuple[str, Any]]:
    figures: Figures = figures_of(program)
    return [
        ("program root", "0x" + program.root.hex()),
        ("kernels", figures.kernels),
        ("multiply-adds a row", f"{figures.macs:,}"),
        ("longest reduction", f"{figures.longest_reduction:,} steps"),
        ("longest dispute of one row", f"{figures.moves} transactions"),
    ]


@dataclass(frozen=True, slots=True)
class Measured:
    """Before and after quantisation. Accuracies are of the labelled rows, None without labels; `agreement` is
    the share of rows on which both give the same class, None where outputs are no classes.
    """

    rows: int
    before: float | None
    after: float | None
    agreement: float | None
    largest_difference: float
    """Of the first output, over all rows."""


@click.command()
@file_argument
@click.option(
    "--calibration",
    required=True,
    help="typical inputs: .npz with an array for each input; its ranges become the scales",
)
@click.option("--data", help="labelled rows to measure accuracy on: .npz with inputs and labels")
@click.option(
    "--labels", help=f"name of the array of labels in --data, or in --calibration  [default: {LABELS}]"
)
@click.option("--scores", help="output whose largest element is the class  [default: the first]")
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="file to write, whole or not at all",
)
@click.option("--keep-outside", is_flag=True, help="write the file although it is not in the profile")
@json_option
@command_errors
def quantize(
    *,
    file: Path,
    calibration: str,
    data: str | None,
    labels: str | None,
    scores: str | None,
    output: Path,
    keep_outside: bool,
    as_json: bool,
) -> None:
    """Turn the float model FILE into integers of the exact profile, through onnxruntime's quantiser.

    Reports the accuracy before and after on labelled rows. The result is checked, and run through onnxruntime
    and the exact evaluator, before it is written. Exit code 1: it is not in the profile, and not written
    without --keep-outside.
    """
    from assay.cli.quantising import quantize_model, write_atomically

    if output.resolve() == file.resolve():
        raise RequestError("--output is the input file; name another", code="output_file")
    if not output.parent.is_dir():
        raise RequestError(f"there is no folder {output.parent} to write to; make it", code="output_file")
    inspection = inspect_artifact(file)
    output_name = _scores(inspection, scores)
    examples = read_examples(calibration, inspection.inputs)
    labelled = None
    if data is not None or labels is not None:
        labelled = read_examples(data or calibration, inspection.inputs, labels or LABELS)
    source = file.read_bytes()
    if check_model(source).is_exact:
        raise RequestError(
            f"{file} is in the exact profile already; publish it as it is", code="already_exact"
        )
    with _bar("calibrating", examples.rows, as_json) as progress:
        artifact = quantize_model(file, examples, progress)
    report = check_model(artifact)
    with progress_console().status("comparing"):
        _check_result(artifact, inspection, report, examples)
        measured = measure(source, artifact, labelled or examples, output_name)
    is_written = report.is_exact or keep_outside
    if is_written:
        write_atomically(output, artifact)
    if as_json:
        written = str(output) if is_written else None
        emit_json({"output": written, **described(artifact, report), "measured": asdict(measured)})
    else:
        _show_measured(measured)
        show_report(output.name, report)
        console().print(f"wrote {output}" if is_written else "nothing was written", soft_wrap=True)
    if not report.is_exact:
        sys.exit(EXIT_OUTSIDE)


def _scores(inspection: Inspection, wanted: str | None) -> str:
    names = [spec.name for spec in inspection.outputs]
    if wanted is not None and wanted not in names:
        raise RequestError(f"the model has no output {wanted!r}, only {', '.join(names)}", code="output_name")
    return wanted or names[0]


def _check_result(artifact: bytes, before: Inspection, report: Report, examples: Examples) -> None:
    """The signature must be the source's, an exact model run alike both ways. Raises VerificationError."""
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(artifact)
        file.flush()
        after = inspect_artifact(Path(file.name))
    if (before.inputs, [spec.name for spec in before.outputs]) != (
        after.inputs,
        [spec.name for spec in after.outputs],
    ):
        raise VerificationError(
            "the quantised model has other inputs or outputs than the source", step="signature"
        )
    if report.program is not None:
        compare_both_ways(artifact, report.program, next(examples.batches(COMPARED_ROWS)))


def compare_both_ways(artifact: bytes, program: Program, feeds: dict[str, NDArray[Any]]) -> None:
    """Rows through onnxruntime and the exact evaluator. Raises VerificationError at the first difference."""
    from assay.exact.evaluator import evaluate
    from assay.node.engines.runtime import build_session
    from assay.node.models.exactness import first_difference

    session = build_session(artifact)
    names = [item.name for item in session.get_outputs()]
    order = [item.name for item in session.get_inputs()]
    true = evaluate(program, [feeds[name] for name in order])
    if difference := first_difference(names, session.run(names, feeds), true):
        raise VerificationError(
            f"{difference}; this machine's onnxruntime cannot serve the model as exact, another CPU may",
            step="exact",
        )


def measure(source: bytes, artifact: bytes, examples: Examples, name: str) -> Measured:
    """Both models on the same rows. Raises RequestError where labels do not fit the output."""
    float_output, exact_output = (run_rows(model, examples, name) for model in (source, artifact))
    difference = np.abs(float_output.astype(np.float64) - exact_output.astype(np.float64))
    largest = float(difference.max()) if difference.size else 0.0
    labels = examples.labels
    try:
        classes = [predictions(output, examples.rows, name) for output in (float_output, exact_output)]
    except RequestError:
        if labels is not None:
            raise
        return Measured(examples.rows, None, None, None, largest)
    agreement = accuracy(classes[0], classes[1])
    if labels is None:
        return Measured(examples.rows, None, None, agreement, largest)
    check_label_range(float_output, labels, name)
    before, after = (accuracy(one, labels) for one in classes)
    return Measured(examples.rows, before, after, agreement, largest)


def run_rows(artifact: bytes, examples: Examples, name: str) -> NDArray[Any]:
    """One output for all rows, by onnxruntime."""
    from assay.node.engines.runtime import build_session

    session = build_session(artifact)
    outputs = [session.run([name], feeds)[0] for feeds in examples.batches(ROWS_AT_ONCE)]
    return np.concatenate(outputs)


def _show_measured(measured: Measured) -> None:
    rows: list[tuple[str, Any]] = [("rows", measured.rows)]
    if measured.before is not None and measured.after is not None:
        lost = measured.before - measured.after
        rows += [("accuracy before", f"{measured.before:.2%}"), ("accuracy after", f"{measured.after:.2%}")]
        rows.append(("lost", Text(f"{lost:.2%}", "red" if lost > 0.01 else "")))
    if measured.agreement is not None:
        rows.append(("same class", f"{measured.agreement:.2%}"))
    rows.append(("largest difference of an output", f"{measured.largest_difference:.4g}"))
    emit_table("before and after", ("figure", "value"), rows)


@contextmanager
def _bar(title: str, total: int, hidden: bool) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=progress_console(), disable=hidden, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)
