"""The AsyncAPI document of the event streams: `python -m agentos.gateways.asyncapi` writes it.

It is made from the payload classes themselves: what they say is what the broker and SSE show.
With `--check` it writes nothing and fails when the committed document says something else.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from agentos.domain.audit.chain import AuditRecorded
from agentos.domain.envelope import Payload
from agentos.domain.run.events import RUN_EVENTS
from agentos.gateways.openapi import FOLDER, text_of

FILE: Final = "events.asyncapi.json"
REF: Final = "#/components/schemas/{model}"
TENANT: Final = {"description": "the tenant's id", "examples": ["tnt_demo"]}
RUN: Final = {"description": "the run's id", "examples": ["run_01JABCDEFGHJKMNPQRSTVWXYZ0"]}
OF_RUN: Final = {
    "agent_id": {"type": "string"},
    "run_id": {"type": "string"},
    "step_id": {"type": ["string", "null"]},
}
BROKER_NOTE: Final = (
    "One message is one or more events of one aggregate, one JSON object a line; an empty "
    "message shows nothing. Delivery is at least once: order by `sequence` within a run, drop "
    "repeats by `event_id`. The stream `EVENTS` has the past; durable consumers resume."
)
SSE_NOTE: Final = (
    "Each SSE event has `event:` the type, `id:` where to resume and `data:` this object. "
    "Delivery is at least once, as on the broker."
)


def document() -> dict[str, Any]:
    """Return the document: the broker's subjects, the SSE streams, and every event on them."""
    run_events = list(RUN_EVENTS.values())
    audit: list[type[Payload]] = [AuditRecorded]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "AgentOS events",
            "version": "1.0.0",
            "description": "Additive only: new types of events and new optional fields may appear.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "the address is in the secret of a key of kind `subscriber`",
                "security": [{"$ref": "#/components/securitySchemes/subscriber"}],
            },
            "orchestrator": {
                "host": "127.0.0.1:50081",
                "protocol": "http",
                "security": [
                    {"$ref": "#/components/securitySchemes/bearer"},
                    {"$ref": "#/components/securitySchemes/api_key"},
                ],
            },
        },
        "channels": {
            "broker_run": _channel(
                "broker", "log.{tenant_id}.run.{run_id}", BROKER_NOTE, run_events,
                tenant_id=TENANT, run_id=RUN,
            ),
            "broker_audit": _channel(
                "broker", "log.{tenant_id}.audit.chain", BROKER_NOTE, audit, tenant_id=TENANT
            ),
            "sse_run": _channel(
                "orchestrator", "/v1/runs/{run_id}/events", SSE_NOTE,
                run_events, agent_id={"description": "the agent's id"}, run_id=RUN,
            ),
            "sse_tenant": _channel("orchestrator", "/v1/events", SSE_NOTE, run_events),
            "sse_audit": _channel("orchestrator", "/v1/audit/events", SSE_NOTE, audit),
        },
        "operations": {
            f"receive_{name}": {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{name}"},
                "summary": summary,
            }
            for name, summary in {
                "broker_run": "hear a tenant's runs by NATS",
                "broker_audit": "hear a tenant's audit records by NATS",
                "sse_run": "hear one run by SSE",
                "sse_tenant": "hear all runs of the tenant by SSE",
                "sse_audit": "hear the tenant's audit records by SSE",
            }.items()
        },
        "components": {
            "messages": {_name(kind): _message(kind) for kind in [*run_events, *audit]},
            "schemas": _schemas([*run_events, *audit]),
            "securitySchemes": {
                "subscriber": {"type": "userPassword"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "httpApiKey", "name": "X-API-Key", "in": "header"},
            },
        },
    }  # fmt: skip


def _channel(
    server: str, address: str, text: str, kinds: list[type[Payload]], **parameters: dict[str, Any]
) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": address,
        "description": text,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "messages": {
            _name(kind): {"$ref": f"#/components/messages/{_name(kind)}"} for kind in kinds
        },
    }
    return {**channel, "parameters": parameters} if parameters else channel


def _name(kind: type[Payload]) -> str:
    return kind.__name__


def _message(kind: type[Payload]) -> dict[str, Any]:
    return {
        "name": kind.TYPE,
        "summary": (kind.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json",
        "payload": {"$ref": f"#/components/schemas/{_name(kind)}Event"},
    }


def _schemas(kinds: list[type[Payload]]) -> dict[str, Any]:
    _, made = models_json_schema([(kind, "serialization") for kind in kinds], ref_template=REF)
    envelopes = {f"{_name(kind)}Event": _envelope(kind) for kind in kinds}
    return dict(sorted({**made["$defs"], **envelopes}.items()))


def _envelope(kind: type[Payload]) -> dict[str, Any]:
    """Return the public envelope around a payload, as the contract writes it."""
    text = {"type": "string"}
    is_run = kind.TYPE in RUN_EVENTS
    fields: dict[str, Any] = {
        "event_id": text,
        "sequence": {"type": "integer", "minimum": 1},
        "time": {"type": "string", "format": "date-time"},
        "type": {"const": kind.TYPE},
        "tenant_id": text,
        **(OF_RUN if is_run else {"principal": {"type": "object"}}),
        "trace": {
            "type": "object",
            "properties": {"traceparent": text, "span_id": text},
            "required": ["traceparent", "span_id"],
        },
        "payload": {"$ref": REF.format(model=_name(kind))},
    }
    event = {"type": "object", "properties": fields, "required": list(fields)}
    return {"type": "object", "properties": {"event": event}, "required": ["event"]}


def main(arguments: list[str] | None = None) -> int:
    """Write the document, or check it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="agentos.gateways.asyncapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on drift")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    path: Path = options.folder / FILE
    text = text_of(document())
    if options.check:
        same = path.exists() and path.read_text() == text
        print(f"{path} is {'' if same else 'not '}what the code says")
        return 0 if same else 1
    options.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
