"""`events:ingest`: every form, good and bad in one batch, and what is never taken."""

import io
import json
from typing import Any

import pytest

from agentos.domain.federation.ingest import Ingest, ingest_ref
from agentos.infra.memory.log import MemoryLog
from tests.federation.fake_peer import RUN, event
from tests.federation.node import FedNode
from tests.gateways.conftest import bearer

PATH = "/v1/federation/events:ingest"
PEER = {
    "X-Tenant-Id": "tnt_a",
    "X-Principal-Id": "stk_fake",
    "X-Scopes": "federation:peer",
    "X-Stack-Id": "stk_fake",
}
DEV = {"X-Tenant-Id": "tnt_a", "X-Principal-Id": "usr_a"}


async def push(
    node: FedNode, events: list[Any], *, headers: Any = PEER, **more: Any
) -> tuple[int, dict[str, Any]]:
    """Push events in the first form, or another."""
    body = more or {"ingest": {"source_stack_id": "stk_fake", "dedupe": {"mode": "event_id"}}}
    content = io.BytesIO(json.dumps({**body, "events": events}).encode())
    return await node.call("POST", PATH, data=content, headers=headers)


async def kept(node: FedNode, run_id: str = RUN, stack_id: str = "stk_fake") -> Ingest:
    """Return what was pushed of a run."""
    ref = ingest_ref("tnt_a", stack_id, run_id)
    return Ingest(ref).fold(await MemoryLog.read(node.door.log, ref))


FORMS: list[dict[str, Any]] = [
    {"ingest": {"source_stack_id": "stk_fake"}},
    {"ingest": {"source_stack_id": "stk_fake", "dedupe": {"mode": "event_id"}}},
    {
        "peer": {
            "stack_id": "stk_fake",
            "environment": "x",
            "region": "y",
            "api_versions": ["v1"],
            "endpoints": {"agent-orchestrator_base_url": "http://b.example"},
        }
    },
    {"peer_id": "stk_fake", "auth": {"tenant_id": "tnt_a"}},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_bare", [False, True])
async def test_each_form_of_body_and_event(
    node: FedNode, form: dict[str, Any], is_bare: bool
) -> None:
    events = [event(1)["event"] if is_bare else event(1), event(2)]
    status, body = await push(node, events, **form)
    assert (status, body["accepted"], body["rejected"]) == (200, 2, 0)
    assert "correlation_id" in body
    status, body = await push(node, events, **form)
    assert (body["accepted"], body["rejected"]) == (0, 2)
    assert len((await kept(node)).event_ids) == 2


async def test_good_and_bad_in_one_batch(node: FedNode) -> None:
    await node.door.change_tenant("tnt_b", "create", _profile())
    status, run = await node.call(
        "POST",
        "/v1/agents/agt_a/runs",
        door=0,
        json={"input": {"type": "text", "text": "hi"}},
    )
    assert status == 201
    own = run["run"]["run_id"]
    bad: list[Any] = [
        event(2, tenant_id="tnt_b"),
        event(3, run_id=own),
        event(1),  # a repeat within the batch
        event(4, event_id=""),
        event(5, event_id=7),
        event(0),
        event(6, run_id="../x"),
        event(True),
        event(8, payload=None),
        5,
        None,
        "x",
        [],
        {},
        {"event": 5},
        event(1, event_id="evt_other"),  # a second event in the place of the first
    ]
    status, body = await push(node, [event(1), *bad, event(9)])
    assert (status, body["accepted"], body["rejected"]) == (200, 2, len(bad))
    found = await kept(node)
    assert sorted(found.sequences) == [1, 9]
    assert [tuple(gap) for gap in found.gaps()] == [(2, 8)]
    assert await node.lines(own) != []


def _profile() -> Any:
    from agentos.domain.tenant.tenant import Profile

    return Profile(name="B")


async def test_ten_thousand_events(node: FedNode) -> None:
    events = [event(at, run_id=f"run_{at % 3}") for at in range(1, 10_001)]
    status, body = await push(node, events)
    assert (status, body["accepted"], body["rejected"]) == (200, 10_000, 0)
    status, body = await push(node, events[:100])
    assert (body["accepted"], body["rejected"]) == (0, 100)
    status, body = await push(node, [*events, event(1)])
    assert (status, body["error"]["code"]) == (400, "invalid_request")


async def test_a_batch_of_the_largest_size_and_no_other_body(node: FedNode) -> None:
    large = {"status": "running", "text": "x" * 200_000}
    status, body = await push(node, [event(at, payload=large) for at in range(1, 21)])
    assert (status, body["accepted"]) == (200, 20)
    status, body = await node.call(
        "POST", "/v1/federation/runs:forward", data=io.BytesIO(b"{" + b" " * 2_000_000)
    )
    assert (status, body["error"]["code"]) == (413, "payload_too_large")


async def test_whose_events_may_be_pushed(node: FedNode) -> None:
    other = {"ingest": {"source_stack_id": "stk_other"}}
    status, body = await push(node, [event(1)], **other)
    assert (status, body["accepted"], body["rejected"]) == (200, 0, 1)
    own = {"ingest": {"source_stack_id": "stk_a"}}
    assert (await push(node, [event(1)], **own))[1]["rejected"] == 1
    # in dev a stack that is no peer is taken, from a caller that names none or that one
    status, body = await push(node, [event(1)], headers=DEV, **other)
    assert (status, body["accepted"]) == (200, 1)
    assert (await kept(node, stack_id="stk_other")).event_ids
    assert not (await kept(node)).event_ids


async def test_events_read_suffices_with_dev_headers_only(node: FedNode) -> None:
    status, body = await push(node, [event(1)], headers=bearer())
    assert (status, body["error"]["code"]) == (403, "forbidden")
    assert (await push(node, [event(1)], headers=DEV))[0] == 200
    narrow = DEV | {"X-Scopes": "runs:read"}
    assert (await push(node, [event(1)], headers=narrow))[0] == 403
    peer = bearer(roles=["peer"])
    assert (await push(node, [event(5)], headers=peer))[0] == 200


BAD: list[Any] = [
    {"events": []},
    {"ingest": {"source_stack_id": "x"}, "events": []},
    {"ingest": {"source_stack_id": "stk_fake", "dedupe": {"mode": "none"}}, "events": []},
    {"ingest": {"source_stack_id": "stk_fake"}},
    {"ingest": {"source_stack_id": "stk_fake"}, "events": {}},
    {"peer_id": 5, "events": []},
    [],
    5,
]


@pytest.mark.parametrize("body", BAD)
async def test_bodies_that_do_not_fit(node: FedNode, body: Any) -> None:
    status, answer = await node.call("POST", PATH, json=body, headers=PEER)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


async def test_what_is_not_json(node: FedNode) -> None:
    for data in (b"", b"{", b"[" * 100_000, b'{"events": "\xff"}'):
        status, answer = await node.call("POST", PATH, data=data, headers=PEER)
        assert (status, answer["error"]["code"]) == (400, "invalid_json")


async def test_a_peer_without_the_right(node: FedNode, fake_entry: Any) -> None:
    known = node.door.gateway._federation
    assert known is not None
    found = known.book.get("stk_fake")
    assert found is not None
    found.entry = fake_entry.model_copy(update={"rights": ("runs:forward",)})
    assert (await push(node, [event(1)]))[1]["rejected"] == 1
    found.entry = fake_entry.model_copy(update={"tenants": ("tnt_b",)})
    status, body = await push(node, [event(1)])
    assert (status, body["error"]["code"]) == (403, "forbidden")


async def test_another_tenants_name_is_no_way_in(node: FedNode) -> None:
    body = {"peer_id": "stk_fake", "auth": {"tenant_id": "tnt_b"}}
    status, answer = await push(node, [event(1)], **body)
    assert (status, answer["error"]["code"]) == (400, "tenant_mismatch")
