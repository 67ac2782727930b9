"""OpenTelemetry's GenAI client metrics: buckets, labels, bounds."""

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from agentos.domain.models.catalog import Catalog
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.gateways.model_policy.genai_metrics import KEPT, SECONDS, TOKENS, GenAiMetrics
from tests.gateways.model_policy.world import a_world, caller, chat

DOCUMENT = {
    "backends": [{"name": "a", "kind": "anthropic", "any_model": True}],
    "models": [{"model_id": "a/m"}],
    "routes": [
        {"name": "tier:fast", "operation": "chat", "chain": [{"targets": [{"model_id": "a/m"}]}]}
    ],
}


class Given:
    """Metrics with a catalog."""

    def __init__(self) -> None:
        self.catalog: CatalogAggregate | None = CatalogAggregate(CATALOG_REF)
        self.publish(DOCUMENT)
        self.metrics = GenAiMetrics(lambda: self.catalog)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)

    def publish(self, document: dict[str, Any]) -> None:
        """Let another catalog hold."""
        catalog = CatalogAggregate(CATALOG_REF)
        catalog.version = 1 + (self.catalog.version if self.catalog else 0)
        catalog.document = Catalog.model_validate(document)
        self.catalog = catalog

    def called(self, **more: Any) -> None:
        """Count a call."""
        used = more.pop("tokens", (12, 3))
        self.metrics.called(
            {
                "operation": "chat",
                "model_ref": "tier:fast",
                "backend": "a",
                "model": "m",
                "status": "ok",
                "usage": {
                    "input_tokens": used[0],
                    "output_tokens": used[1],
                    "total_tokens": sum(used),
                },
                "latency_ms": 30,
                "error": None,
                **more,
            }
        )

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of a histogram's counts."""
        return [
            sample.labels
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"{name}_count"
        ]


COMMON = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "anthropic",
    "gen_ai_request_model": "tier:fast",
    "gen_ai_response_model": "m",
}
DURATION, USED = "gen_ai_client_operation_duration_seconds", "gen_ai_client_token_usage"


def test_the_boundaries_are_the_conventions() -> None:
    assert TOKENS == (
        1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864
    )  # fmt: skip
    assert SECONDS == (
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92
    )  # fmt: skip


def test_a_call_is_in_both() -> None:
    given = Given()
    given.called()
    assert given.labels(DURATION) == [{**COMMON, "error_type": ""}]
    assert given.labels(USED) == [
        {**COMMON, "gen_ai_token_type": "input"},
        {**COMMON, "gen_ai_token_type": "output"},
    ]
    text = generate_latest(given.registry).decode()
    assert '_sum{gen_ai_operation_name="chat"' in text
    value = given.registry.get_sample_value
    assert value(f"{USED}_sum", {**COMMON, "gen_ai_token_type": "input"}) == 12
    assert value(f"{DURATION}_sum", {**COMMON, "error_type": ""}) == 0.03
    for bound, count in (("0.02", 0), ("0.04", 1), ("+Inf", 1)):
        assert value(f"{DURATION}_bucket", {**COMMON, "error_type": "", "le": bound}) == count


def test_what_a_caller_made_up_is_other() -> None:
    given = Given()
    for n in range(KEPT + 10):
        given.called(model_ref=f"made-up-{n}", model=f"made-up-{n}")
    (labels,) = given.labels(DURATION)
    assert labels["gen_ai_request_model"] == labels["gen_ai_response_model"] == "other"
    assert len(given.metrics._tokens) == 1
    assert len(given.metrics._known) <= KEPT


def test_a_call_that_reached_nobody_has_no_tokens_and_an_error() -> None:
    given = Given()
    given.called(
        backend="", model="", status="refused", tokens=(0, 0), error={"code": "rate_limited"}
    )
    (labels,) = given.labels(DURATION)
    assert labels["error_type"] == "rate_limited"
    assert (labels["gen_ai_provider_name"], labels["gen_ai_response_model"]) == ("agentos", "")
    assert given.labels(USED) == []


def test_what_broke_off_has_the_tokens_it_used() -> None:
    given = Given()
    given.called(status="interrupted", error=None, tokens=(5, 2))
    assert given.labels(DURATION)[0]["error_type"] == "interrupted"
    assert len(given.labels(USED)) == 2


def test_a_new_catalog_has_new_names() -> None:
    given = Given()
    given.called(model="n")
    assert given.labels(DURATION)[0]["gen_ai_response_model"] == "other"
    given.publish(DOCUMENT | {"models": [{"model_id": "a/m"}, {"model_id": "a/n"}]})
    given.called(model="n")
    assert given.labels(DURATION)[1]["gen_ai_response_model"] == "n"
    given.catalog = None  # being read: the last names hold
    given.called(model="n")
    assert len(given.labels(DURATION)) == 2


async def test_calls_of_the_pipeline_are_counted_and_their_overhead_too() -> None:
    async with a_world() as world, world.services() as services:
        await services.pipeline.chat(caller(), chat("hi"))
        registry = services.meter._metrics.registry
        (labels,) = [
            sample.labels
            for family in registry.collect()
            for sample in family.samples
            if sample.name == f"{DURATION}_count"
        ]
        assert labels["gen_ai_request_model"] == "builtin/echo"
        assert labels["gen_ai_response_model"] == "echo"
        assert registry.get_sample_value("agentos_model_overhead_seconds_count") == 1
        seconds = registry.get_sample_value("agentos_model_overhead_seconds_sum")
        assert seconds is not None
        assert 0 < seconds < 5
