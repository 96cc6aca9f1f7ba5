"""The `assay` command in this process, standard output and standard error apart."""

from __future__ import annotations

import inspect

from click.testing import CliRunner

_APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
RUNNER = CliRunner(**_APART)  # click before 8.2 mixes the streams unless told not to
