"""Structured logs to standard error: one line an event, readable on a terminal, JSON for machines."""

import logging
import sys
from collections.abc import Callable
from typing import Literal

import msgspec
import structlog

Level = Literal["debug", "info", "warning", "error"]

# Whatever is named like this never reaches a log line, whoever logs it.
_SECRET = ("authorization", "api_key", "x-api-key", "password", "secret", "token")


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(part=name)
    return logger


def configure(level: Level, *, as_json: bool) -> None:
    """Set the process's logging up, for our own events and for those of the libraries."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            *(_as_json() if as_json else _for_people()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s", force=True
    )


def _as_json() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_serialized),
    ]


def _serialized(event: structlog.typing.EventDict, default: Callable[[object], object]) -> str:
    return msgspec.json.encode(event, enc_hook=default).decode()


def _for_people() -> list[structlog.typing.Processor]:
    # The renderer's own tracebacks show the local variables, among them keys and what people wrote.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]


def _redact(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for name in event:
        if name.lower() in _SECRET:
            event[name] = "[redacted]"
    return event
