"""Bodies of direct calls: kept beside the answer, sealed, for whoever asked for it alone."""

import asyncio
from types import SimpleNamespace
from typing import Any

from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.domain.errors import DependencyUnavailableError, ProviderError
from agentos.domain.ports import (
    ChatMessage,
    EmbedRequest,
    ModelAnswer,
    ModelRequest,
    RequestedToolCall,
    Usage,
)
from agentos.domain.privacy.bodies import CallBody, body_digest, body_place
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.gateways.http.followed import Followed
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.model_policy.bodies import Bodies, body_of
from agentos.gateways.model_policy.calls import Caller
from agentos.gateways.model_policy.idempotency import Idempotency
from agentos.gateways.model_policy.keeping import Keeping
from agentos.gateways.model_policy.recording import NOT_KEPT, _error
from agentos.infra.memory.answers import MemoryAnswers
from agentos.infra.memory.call_bodies import MemoryCallBodies
from tests.handlers.node import Node, a_node
from tests.handlers.test_erasure import erase
from tests.handlers.test_tenants import send
from tests.handlers.virtual import virtual_time

ASKED = ModelRequest("req_1", "builtin/echo", [ChatMessage("user", "zanzibar")])
CALL = RequestedToolCall("tcall_1", "tool.a", "a", {"to": "quixotic"})
SAID = ModelAnswer("marmalade", (CALL,), Usage(1, 1), "builtin", "echo")
DIGEST = body_digest("usr_a", "req_1")


class Desk:
    """The parts of a gateway that keep content, on a node in memory."""

    def __init__(self, node: Node, store: MemoryCallBodies | None = None, **options: Any) -> None:
        self.store = store or MemoryCallBodies()
        self.keys = node.keyring()
        self.known = Followed(node.log, ("tenant", "subject"))
        self.keeping = Keeping(self.known, self.keys)
        self.metrics = Metrics()
        self.bodies = Bodies(
            self.store, self.keys, self.keeping, self.known, self.metrics, **options
        )
        node.own(self.known.run())
        self.task = node.own(self.bodies.run())

    async def ready(self) -> "Desk":
        """Let the tenant be known, as it is behind admission."""
        await asyncio.sleep(0.1)
        await self.known.get(Tenant, tenant_ref("tnt_a"))
        return self

    def lost(self, reason: str) -> float:
        sample = self.metrics.registry.get_sample_value
        return sample("agentos_model_bodies_lost_total", {"reason": reason}) or 0.0


def caller(**more: Any) -> Caller:
    auth = AuthContext(
        tenant_id="tnt_a", principal=Principal(principal_id="usr_a"), scopes=USER_SCOPES
    )
    return Caller(auth, "corr_1", "", **more)


async def a_tenant(node: Node, **privacy: bool) -> Any:
    await node.tenant()
    parts = await node.handlers()
    await send(parts, "tenant.update", changes={"privacy": privacy})
    return parts


@virtual_time
async def test_a_body_is_kept_sealed_and_opens_until_its_principal_is_erased() -> None:
    async with a_node() as node:
        parts = await a_tenant(node, record_bodies=True)
        desk = await Desk(node).ready()
        desk.bodies.note(caller(), ASKED, SAID)
        await asyncio.sleep(0.1)
        kept = desk.store.kept["tnt_a", DIGEST]
        assert not any(word in kept for word in (b"zanzibar", b"marmalade", b"quixotic"))
        key_id, _, box = kept.partition(b"\n")
        plain = await desk.keys.unseal("tnt_a", key_id.decode(), box, body_place(DIGEST))
        body = CallBody.model_validate_json(plain)
        assert body.input == ("zanzibar",)
        assert body.output == ("marmalade",)
        assert body.tools[0][0] == "tool.a"
        assert "quixotic" in " ".join(body.tools[0][1])
        await erase(parts, "usr_a")
        assert await desk.keys.state("tnt_a", key_id.decode()) == "destroyed"


@virtual_time
async def test_nothing_is_kept_for_who_did_not_ask_and_of_runs() -> None:
    async with a_node() as node:
        await a_tenant(node, erasure=True)
        desk = await Desk(node).ready()
        desk.bodies.note(caller(), ASKED, SAID)
        await asyncio.sleep(0.1)
        assert desk.store.kept == {}
    async with a_node() as node:
        await a_tenant(node, record_bodies=True)
        desk = await Desk(node).ready()
        desk.bodies.note(caller(run_id="run_1"), ASKED, SAID)
        await asyncio.sleep(0.1)
        assert desk.store.kept == {}


@virtual_time
async def test_what_cannot_be_kept_is_counted_and_delays_nobody() -> None:
    class Stuck(MemoryCallBodies):
        async def put(self, tenant_id: str, digest: str, body: bytes) -> None:
            await asyncio.sleep(3600)

    class Away(MemoryCallBodies):
        async def put(self, tenant_id: str, digest: str, body: bytes) -> None:
            raise DependencyUnavailableError("away", dependency="nats")

    async with a_node() as node:
        await a_tenant(node, record_bodies=True)
        desk = await Desk(node, Away()).ready()
        desk.bodies.note(caller(), ASKED, SAID)
        await asyncio.sleep(0.1)
        assert desk.lost("refused") == 1
        desk = await Desk(node, Stuck(), most=3).ready()
        desk.bodies.note(caller(), ASKED, SAID)
        await asyncio.sleep(0.1)  # it is in hand, and stays there
        for _ in range(5):
            desk.bodies.note(caller(), ASKED, None)
        assert desk.lost("overflow") == 2
        desk.task.cancel()
        await asyncio.gather(desk.task, return_exceptions=True)
        assert desk.lost("stopped") == 4


def test_an_embedding_has_its_texts_and_a_blocked_call_no_answer() -> None:
    body = body_of(EmbedRequest("req_1", "tier:fast", ["one", "two"]), None, {"region": "eu"})
    assert (body.input, body.output, body.context) == (("one", "two"), (), {"region": "eu"})
    assert body_of(ASKED, None, {}).output == ()


@virtual_time
async def test_a_kept_answer_is_sealed_with_the_principals_key_or_the_runs() -> None:
    async with a_node() as node:
        await a_tenant(node, erasure=True)
        desk = await Desk(node).ready()
        answers = MemoryAnswers()
        once = Idempotency(answers, node.new_id, 3600, keeping=desk.keeping).once
        await desk.keys.make("tnt_a", "sub_0123456789abcdef0123456789abcdef-1")

        async def say() -> dict[str, Any]:
            return {"output": "zanzibar"}

        of_a_run = caller(
            fingerprint="f", run_id="run_1", sealed="sub_0123456789abcdef0123456789abcdef-1"
        )
        of_nobody = caller(fingerprint="f", run_id="run_2")
        for number, who in enumerate((caller(fingerprint="f"), of_a_run, of_nobody)):
            first = await once(who, f"req_{number}", say)
            assert first == ({"output": "zanzibar"}, False)
            assert await once(who, f"req_{number}", say) == ({"output": "zanzibar"}, True)
        bodies = [body for _, body, _ in answers._kept.values()]
        assert [b"zanzibar" in body for body in bodies] == [False, False, True]


@virtual_time
async def test_a_backends_words_are_no_part_of_the_usage_of_what_can_be_erased() -> None:
    async with a_node() as node:
        await a_tenant(node, erasure=False)
        plain = await Desk(node).ready()
        assert _said(plain, caller()) == "quoting: zanzibar"
        assert _said(plain, caller(run_id="run_1", sealed="sub_x-1")) == NOT_KEPT
    async with a_node() as node:
        await a_tenant(node, erasure=True)
        assert _said(await Desk(node).ready(), caller()) == NOT_KEPT


def _said(desk: Desk, who: Caller) -> str:
    call: Any = SimpleNamespace(caller=who, gates=SimpleNamespace(known=desk.known))
    found = _error(call, ProviderError("quoting: zanzibar"))
    assert found is not None
    assert found["code"] == "provider_error"
    return str(found["message"])
