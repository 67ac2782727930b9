"""One JSON object a line on standard output, for every process of a node."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog
from structlog.typing import Processor

_RENAMED = {"event": "message", "timestamp": "time"}
_FIRST = ("time", "level", "service", "message")
_WHOSE = ("tenant_id", "run_id", "correlation_id", "trace_id", "span_id")


def configure_logging(service: str, level: str = "info") -> None:
    """Send structlog and the standard library's logging out as JSON lines.

    Fields are `time` (UTC, milliseconds), `level`, `service`, `message`, and whatever was
    bound or, with the standard library, given as `extra`: `tenant_id`, `run_id`,
    `correlation_id`, `trace_id`, `span_id`.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
        structlog.processors.format_exc_info,
        _Shape(service),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(_WHOSE), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)


class _Shape:
    """Give every line the contract's field names, the fixed ones first."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        line = {_RENAMED.get(name, name): value for name, value in event.items()}
        line["service"] = self._service
        if isinstance(line.get("time"), str):
            line["time"] = line["time"][:23] + "Z"
        return {name: line[name] for name in _FIRST if name in line} | line


def _render(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> str:
    return orjson.dumps(dict(line), default=str).decode()
