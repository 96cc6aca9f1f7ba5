"""Log lines on standard error: readable, or JSON. Keys, passwords and signatures are never among the
fields, nor are the variables of the functions that an error came through."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

_SECRET_FIELDS: Final = frozenset(("password", "secret", "key", "private_key", "signature", "authorization"))
_CREDENTIALS: Final = re.compile(r"(\b[a-z]+://)[^/\s@]+@")


def configure_logs(*, as_json: bool, level: int = logging.INFO) -> None:
    """structlog for this package; the standard library's loggers (uvicorn, chain) go through the same
    renderer."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=_PROCESSORS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _without_secrets,
                renderer,
            ],
            foreign_pre_chain=_SHARED,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _without_secrets(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Drop fields that could hold a secret; cut credentials out of URLs."""
    for field, value in list(event.items()):
        if field in _SECRET_FIELDS:
            event[field] = "…"
        elif isinstance(value, str):
            event[field] = _CREDENTIALS.sub(r"\1…@", value)
    return event


_SHARED: Final[list[Any]] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _without_secrets,
]
_PROCESSORS: Final[list[Any]] = [*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
"""One list for good: a logger keeps the one that it was first used with."""
