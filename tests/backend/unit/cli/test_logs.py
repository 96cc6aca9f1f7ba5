"""What an error that nobody expected leaves in the log."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAILING = """
import sys
import structlog
from assay.cli.logs import configure_logs

configure_logs(as_json=sys.argv[1] == "json")

def fail(passphrase):
    raise ValueError("cannot reach postgresql://node:hunter2@host/log")

try:
    fail("hunter" + "2")
except ValueError as error:
    structlog.get_logger().error("it failed", exc_info=error, secret="hunter2")
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_configure_logs__unexpected_error__tells_where_and_no_variable_or_credential(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", FAILING, form], capture_output=True, text=True, check=True)
    assert "in fail" in done.stderr and "ValueError: cannot reach postgresql://" in done.stderr
    assert "hunter2" not in done.stderr and not done.stdout


CONFIGURED_AGAIN = """
import structlog
from assay.cli.logs import configure_logs
from structlog.testing import capture_logs

log = structlog.get_logger()
configure_logs(as_json=False)
log.info("before")
configure_logs(as_json=True)
with capture_logs() as lines:
    log.info("after")
assert [line["event"] for line in lines] == ["after"], lines
"""


def test_configure_logs__again__loggers_in_use_keep_to_the_same_processors() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED_AGAIN], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
