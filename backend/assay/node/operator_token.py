"""The bearer token of the node's operator: a file of the node's folder, made at the first start."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import Final

from assay.errors import ConfigurationError
from assay.node.errors import OperatorOnly

FILE: Final = "operator.token"
MIN_LENGTH: Final = 20
_SCHEME: Final = "bearer"


@dataclass(frozen=True, slots=True)
class OperatorToken:
    value: str = field(repr=False)

    def check(self, authorization: str | None, what: str) -> None:
        """`authorization` is the header's (gRPC: the metadata's) value. Raises OperatorOnly."""
        scheme, _, token = (authorization or "").strip().partition(" ")
        if not token or scheme.lower() != _SCHEME:
            raise OperatorOnly(what, given=False)
        if not compare_digest(token.strip().encode(), self.value.encode()):
            raise OperatorOnly(what, given=True)


def load_token(folder: Path) -> OperatorToken:
    """The token of a node's folder; a new one, mode 600, if there is none. Raises ConfigurationError."""
    path = folder / FILE
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    try:
        value = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; delete it to have a new token") from None
    if len(value) < MIN_LENGTH:
        raise ConfigurationError(
            f"{path} holds fewer than {MIN_LENGTH} characters; delete it to have a new token made"
        )
    return OperatorToken(value)
