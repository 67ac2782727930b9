"""Requests made up from the OpenAPI documents: every answer is one that the document promises."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi import checks as openapi

from agentos.gateways.http.errors import STATUS
from tests.journeys.real_node import RealNode, real_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

DOCUMENTS: Final = Path(__file__).parents[2] / "docs" / "api"
CALL_S: Final = 20.0
OPENAI_PATHS: Final = ("/v1/chat/completions", "/v1/embeddings", "/v1/responses")
OF_OPENAI: Final = {"type", "param"}
EXAMPLES: Final = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHECKS: Final[list[CheckFunction]] = [
    not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_headers_conformance,
    openapi.response_schema_conformance,
    openapi.negative_data_rejection,
    openapi.unsupported_method,
]

orchestrator = schemathesis.openapi.from_path(DOCUMENTS / "orchestrator.json")
model_policy = schemathesis.openapi.from_path(DOCUMENTS / "model-policy.json")
federation = schemathesis.openapi.from_path(DOCUMENTS / "federation.json")


@dataclass(frozen=True)
class Target:
    """A node and a credential for it."""

    node: RealNode
    headers: dict[str, str]


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with real_node() as node:
        token = node.token("tnt_demo", "platform_admin")
        yield Target(node, {"Authorization": f"Bearer {token}"})


# `GET /v1/events` never ends by itself: tests/gateways and test_bad_input have it.
@orchestrator.exclude(path="/v1/events", method="GET").parametrize()
@EXAMPLES
def test_orchestrator(case: Any, target: Target) -> None:
    check(case, target, "orchestrator")


@model_policy.parametrize()
@EXAMPLES
def test_model_policy(case: Any, target: Target) -> None:
    check(case, target, "model_policy")


@federation.parametrize()
@EXAMPLES
def test_federation(case: Any, target: Target) -> None:
    check(case, target, "federation")


def check(case: Any, target: Target, door: str) -> None:
    """Send the case and hold the answer against the document and the contract."""
    case.headers.pop("X-API-Key", None)  # made up for the other way to say who one is
    response = case.call(base_url=target.node.door(door), headers=target.headers, timeout=CALL_S)
    checks = [*CHECKS, contract_error]
    if "text/event-stream" in response.headers.get("content-type", [""])[0]:
        # It takes a stream's schema for that of one message; ours is that of the whole: text.
        checks.remove(openapi.response_schema_conformance)
        assert response.text.endswith("\n\n") or not response.text
    if ":" in case.operation.path:
        # With another method `agt_x:deprecate` is read as an id, and refused as one: 400.
        checks.remove(openapi.unsupported_method)
    case.validate_response(response, checks=checks)


def contract_error(ctx: Any, response: Response, case: Any) -> None:
    """Every error is the contract's object (on OpenAI's paths with its own), and its status."""
    if response.status_code < 400 or case.method == "HEAD":
        return
    answer = response.json()
    assert set(answer) == {"error", "correlation_id"}, answer
    more = OF_OPENAI if case.operation.path in OPENAI_PATHS else set()
    assert set(answer["error"]) == {"code", "message", "retryable", "details"} | more, answer
    assert STATUS[answer["error"]["code"]] == response.status_code, answer
    assert response.headers["x-correlation-id"] == [answer["correlation_id"]]
