"""Every error that Assay raises on purpose.

AssayError
├── RequestError            somebody asked for something wrong; has an HTTP status and a code
│   └── (one subclass a code lives beside the code that raises it)
├── RetryableError          may go away: RPC down, time-out, rate limit
├── FatalError              will not go away: wrong chain, ABI mismatch, corrupt log; stop loudly
│   └── ConfigurationError  a setting or file is missing or wrong; says which and how to mend it
├── VerificationError       a receipt, batch, proof or signature does not check; says which step
└── ContractRevert          a contract refused; parsed from its "contract: reason"

A message says what happened, on what, and what to do next.
"""

from __future__ import annotations


class AssayError(Exception):
    """Base of all."""

    exit_code = 1


class RequestError(AssayError):
    """A request that cannot be served as it is. `status` is HTTP's, `code` stable snake_case for machines,
    `cure` what to do about it where the message does not say so (empty: the code's own, if it has one)."""

    exit_code = 2

    def __init__(
        self, message: str, *, status: int = 400, code: str = "request_invalid", cure: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.cure = cure


class RetryableError(AssayError):
    """The same call may succeed later."""

    exit_code = 3


class FatalError(AssayError):
    """Retrying cannot help."""

    exit_code = 4


class ConfigurationError(FatalError):
    """A setting, key or file is missing or wrong."""

    exit_code = 5


class VerificationError(AssayError):
    """Something signed, committed or proven does not check."""

    exit_code = 6

    def __init__(self, message: str, *, step: str = "") -> None:
        super().__init__(message)
        self.step = step


class ContractRevert(AssayError):  # noqa: N818 - the EVM's word
    """A contract refused the call; `contract` and `reason` are its revert string `"contract: reason"`."""

    exit_code = 7

    def __init__(self, message: str) -> None:
        super().__init__(message)
        contract, _, reason = message.partition(": ")
        self.contract, self.reason = (contract, reason) if reason else ("", message)
