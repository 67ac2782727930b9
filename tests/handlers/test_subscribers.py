"""A tenant's subscribers, as plain NATS clients on a real broker: what they see and what not."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy

from agentos.domain.aggregate import next_event
from agentos.domain.envelope import Event
from agentos.domain.errors import ConflictError, DependencyUnavailableError
from agentos.domain.key.key import key_ref
from agentos.domain.log import make_commit
from agentos.domain.run.run import Run, run_ref
from agentos.handlers.app import make_parts
from agentos.handlers.parts import Parts
from agentos.infra import nats_accounts
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.streams import provision
from agentos.infra.nats_server import load_nats
from agentos.infra.settings import Settings
from tests.domain.given import Ids, created, moment
from tests.handlers.auditor.audited import audit_all
from tests.handlers.test_tenants import send
from tests.infra.embedded import EmbeddedNats, eventually

IDS = Ids(int(time.time()))


@asynccontextmanager
async def handlers_on(server: EmbeddedNats) -> AsyncIterator[Parts]:
    """A handler process's parts on the broker, with two tenants."""
    await provision(server.url, durability="process", expect_log=False)
    settings = Settings.load({"AGENTOS_DATA_DIR": str(server.directory)})
    client = await connect(server.url, "handlers")
    try:
        yield make_parts(settings, client)
    finally:
        await bounded_close(client)


async def two_tenants(parts: Parts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make two tenants, each with a run and a subscriber key; return the keys' answers."""
    for tenant_id in ("tnt_a", "tnt_b"):
        await send(parts, "tenant.create", tenant_id, profile={"name": tenant_id})
        await a_run(parts, tenant_id)
        await audit_all(parts.log)
    issued = [
        await send(parts, "key.issue", tenant_id, kind="subscriber")
        for tenant_id in ("tnt_a", "tnt_b")
    ]
    await audit_all(parts.log)
    return issued[0], issued[1]


async def a_run(parts: Parts, tenant_id: str) -> str:
    """Write the first event of a run; return the run's id."""
    run = Run(run_ref(tenant_id, IDS("run")))
    event: Event = next_event(run, created(), moment(new_id=IDS))
    await parts.log.append(make_commit(run.ref, [event], IDS), expected=0)
    return run.ref.aggregate_id


class Subscriber:
    """A plain client, with what the server said to it."""

    def __init__(self) -> None:
        self.errors: asyncio.Queue[str] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.client: Client

    async def is_refused(self) -> str:
        """Return what the server refused."""
        return await asyncio.wait_for(self.errors.get(), 5)


@asynccontextmanager
async def subscriber(url: str) -> AsyncIterator[Subscriber]:
    """Connect as any client would."""
    it = Subscriber()

    async def on_error(error: Exception) -> None:
        it.errors.put_nowait(str(error).lower())

    async def on_closed() -> None:
        it.closed.set()

    it.client = Client()
    try:
        await it.client.connect(
            url, error_cb=on_error, closed_cb=on_closed, allow_reconnect=False, connect_timeout=5
        )
        yield it
    finally:
        await it.client.close()
        transport: Any = it.client._transport
        if transport is not None:  # left open by nats-py when the server ended it
            transport.close()
            with suppress(OSError):
                await transport.wait_closed()


async def seen(client: Client, durable: str, many: int) -> list[tuple[str, dict[str, Any]]]:
    """Take so many events through a durable consumer, acknowledged; subject and event."""
    pulled = await client.jetstream().pull_subscribe("", durable=durable, stream="EVENTS")
    found: list[tuple[str, dict[str, Any]]] = []
    async with asyncio.timeout(15):
        while len(found) < many:
            for message in await pulled.fetch(1, timeout=10):
                lines = message.data.splitlines()
                found += [(message.subject, json.loads(line)["event"]) for line in lines]
                await message.ack_sync()
    return found


async def test_a_tenant_sees_its_own_past_and_present_and_resumes(
    own_nats_server: EmbeddedNats,
) -> None:
    async with handlers_on(own_nats_server) as parts:
        issued, _ = await two_tenants(parts)
        url = issued["secret"]
        past = ["run.created", "audit.recorded", "audit.recorded", "audit.recorded"]
        async with subscriber(url) as own:
            events = await seen(own.client, "d", len(past))
            live = await own.client.subscribe("log.tnt_a.run.>")
            await own.client.flush()
            run_id = await a_run(parts, "tnt_a")
            first = await live.next_msg(10)
            assert first.subject == f"log.tnt_a.run.{run_id}"
            events += await seen(own.client, "d", 1)
            assert sorted(e["type"].removeprefix("agentos.") for _, e in events) == sorted(
                [*past, "run.created"]
            )
            assert {subject.split(".")[2] for subject, _ in events} == {"run", "audit"}
            assert {event["tenant_id"] for _, event in events} == {"tnt_a"}
            took = []
            for _ in range(20):
                began = time.perf_counter()
                await a_run(parts, "tnt_a")
                await live.next_msg(10)
                took.append(time.perf_counter() - began)
            print(f"append to subscriber: median {sorted(took)[10] * 1000:.2f} ms")
            before_ns = time.time_ns()
            events += await seen(own.client, "d", 20)
        # The server writes acknowledgements down a little later than it answers them.
        home = own_nats_server.directory / "nats/jetstream"
        await asyncio.to_thread(
            eventually,
            lambda: any(f.stat().st_mtime_ns > before_ns for f in home.rglob("EVENTS/obs/d/o.dat")),
        )
        await asyncio.to_thread(own_nats_server.restart)
        run_id = await a_run(parts, "tnt_a")
        async with subscriber(url) as again:
            # kill -9 may cost the last acknowledgements: those come again, all others do not.
            known, repeated = {event["event_id"] for _, event in events}, 0
            while (found := (await seen(again.client, "d", 1))[0])[1]["event_id"] in known:
                repeated += 1
            assert repeated <= 20
            assert found[0] == f"log.tnt_a.run.{run_id}"


async def test_the_server_refuses_everything_else(own_nats_server: EmbeddedNats) -> None:
    async with handlers_on(own_nats_server) as parts:
        issued, other = await two_tenants(parts)
        async with subscriber(issued["secret"]) as own, subscriber(other["secret"]) as them:
            await seen(them.client, "theirs", 3)
            for subject in (
                "log.tnt_a.run.r", "log.0.tnt_a.run.r", "log.0.tnt_b.run.r", "cmd.run.create",
                "deliver.tnt_a.x", "$SYS.REQ.SERVER.PING", "$JS.API.STREAM.CREATE.MINE",
                "$JS.API.STREAM.UPDATE.EVENTS", "$JS.API.STREAM.DELETE.EVENTS",
                "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.MSG.DELETE.EVENTS",
                "$JS.API.STREAM.SNAPSHOT.EVENTS", "$JS.API.STREAM.INFO.LOG_0",
                "$JS.API.STREAM.MSG.GET.LOG_0", "$JS.API.ACCOUNT.PURGE.x",
                "$JS.API.CONSUMER.CREATE.LOG_0.x", "core.tnt_a.STREAM.INFO.LOG_0",
                "core.tnt_a.CONSUMER.CREATE.LOG_0.x.log.0.tnt_a.run.>",
            ):  # fmt: skip
                await own.client.publish(subject, b"{}")
                refused = await own.is_refused()
                assert "permissions violation for publish" in refused, subject
                assert subject.lower() in refused
            for subject in (
                ">", "log.>", "log.*.run.>", "log.0.>", "log.0.tnt_a.>", "log.tnt_b.run.>",
                "log.tnt_a.>", "log.tnt_a.key.>", "log.tnt_a.quota.>", "$SYS.>", "$JS.>",
                "deliver.>", "core.>", "delta.tnt_a.>", "cmd.>", "hb.>",
            ):  # fmt: skip
                await own.client.subscribe(subject)
                assert "permissions violation for subscription" in await own.is_refused(), subject
            await a_run(parts, "tnt_b")
            await seen(them.client, "theirs", 1)
            assert len(await seen(own.client, "mine", 4)) == 4
            info = await own.client.jetstream().consumer_info("EVENTS", "mine")
            assert info.num_pending == 0, "nothing of the other tenant"
            assert await own.client.jetstream().streams_info()


async def test_a_push_consumer_cannot_speak_to_the_core_account(
    own_nats_server: EmbeddedNats,
) -> None:
    async with handlers_on(own_nats_server) as parts:
        issued, _ = await two_tenants(parts)
        async with subscriber(issued["secret"]) as own:
            await own.client.jetstream().add_consumer(
                "EVENTS",
                ConsumerConfig(
                    durable_name="sly",
                    deliver_policy=DeliverPolicy.ALL,
                    deliver_subject="core.tnt_a.CONSUMER.CREATE.LOG_0.sly.log.0.tnt_a.run.x",
                ),
            )
            await seen(own.client, "mine", 3)
        core = await nats.connect(own_nats_server.url)
        names = [c.name for c in await core.jetstream().consumers_info("LOG_0")]
        await core.close()
        assert "sly" not in names


async def test_revoked_rotated_and_disabled(own_nats_server: EmbeddedNats) -> None:
    async with handlers_on(own_nats_server) as parts:
        issued, other = await two_tenants(parts)
        key_id = issued["key"]["key_id"]
        async with subscriber(issued["secret"]) as old, subscriber(other["secret"]) as them:
            rotated = await send(parts, "key.rotate", key_id=key_id, overlap_seconds=60)
            assert rotated["secret"] != issued["secret"]
            async with subscriber(rotated["secret"]) as new:
                await old.client.flush()
                await send(parts, "key.revoke", key_id=key_id)
                await asyncio.wait_for(new.closed.wait(), 5)
                await asyncio.wait_for(old.closed.wait(), 5)
            await them.client.flush()
            for url in (issued["secret"], rotated["secret"]):
                with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
                    async with subscriber(url):
                        pass
            await send(parts, "tenant.disable", "tnt_b")
            assert parts.subscribers
            await parts.subscribers.refresh()
            await asyncio.wait_for(them.closed.wait(), 5)


async def test_an_overlap_ends_by_itself(own_nats_server: EmbeddedNats) -> None:
    async with handlers_on(own_nats_server) as parts:
        issued, _ = await two_tenants(parts)
        assert parts.subscribers
        keeping = asyncio.create_task(parts.subscribers.keep())
        async with subscriber(issued["secret"]) as old:
            key_id = issued["key"]["key_id"]
            await send(parts, "key.rotate", key_id=key_id, overlap_seconds=1)
            await asyncio.wait_for(old.closed.wait(), 10)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_crash_before_the_reload_heals_at_the_start(own_nats_server: EmbeddedNats) -> None:
    async with handlers_on(own_nats_server) as parts:
        issued, _ = await two_tenants(parts)
        crashed = replace(parts, subscribers=None)
        await send(crashed, "key.revoke", key_id=issued["key"]["key_id"])
    async with (
        handlers_on(own_nats_server) as parts,
        subscriber(issued["secret"]) as still_there,
    ):
        assert parts.subscribers
        await parts.subscribers.refresh()
        await asyncio.wait_for(still_there.closed.wait(), 5)


async def test_a_deleted_tenant_leaves_no_account(own_nats_server: EmbeddedNats) -> None:
    async with handlers_on(own_nats_server) as parts:
        await two_tenants(parts)
        await send(parts, "tenant.disable", "tnt_a")
        await send(parts, "tenant.delete", "tnt_a", confirm="tnt_a")
        assert parts.subscribers
        await parts.subscribers.refresh()
        home = own_nats_server.server.home
        assert list(nats_accounts.read_accounts(home)) == ["tnt_b"]
        assert "tnt_a" not in own_nats_server.server.config_file.read_text()
        await asyncio.to_thread(own_nats_server.restart)


async def test_two_processes_do_not_undo_one_another(own_nats_server: EmbeddedNats) -> None:
    async with handlers_on(own_nats_server) as one, handlers_on(own_nats_server) as two:
        await two_tenants(one)
        answers = await asyncio.gather(
            *(send(parts, "key.issue", "tnt_a", kind="subscriber") for parts in (one, two) * 3)
        )
        for answer in answers:
            async with subscriber(answer["secret"]) as own:
                await own.client.flush()


async def test_the_secret_is_kept_nowhere(own_nats_server: EmbeddedNats) -> None:
    async with handlers_on(own_nats_server) as parts:
        issued, _ = await two_tenants(parts)
        password = issued["secret"].split(":")[2].partition("@")[0]
        home = own_nats_server.server.home
        files = [home / "nats.conf", home / nats_accounts.FILE]
        assert issued["key"]["prefix"] in files[0].read_text()
        for path in files:
            assert password not in path.read_text()
            assert path.stat().st_mode & 0o077 == 0
        key = await parts.log.read(key_ref("tnt_a", issued["key"]["key_id"]))
        assert password.encode() not in b"".join(record.body for record in key)
        assert load_nats(home) == own_nats_server.server


async def test_a_key_that_the_broker_did_not_take_is_taken_back(
    own_nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with handlers_on(own_nats_server) as parts:
        await send(parts, "tenant.create", "tnt_a", profile={"name": "A"})
        assert parts.subscribers

        async def away() -> None:
            raise DependencyUnavailableError("NATS did not reload", dependency="nats")

        monkeypatch.setattr(parts.subscribers, "refresh", away)
        with pytest.raises(DependencyUnavailableError):
            await send(parts, "key.issue", kind="subscriber", command_id="k1")
        (last,) = await parts.log.last_of_kind("key", "tnt_a")
        assert last.types == ("agentos.key.revoked",)
        with pytest.raises(ConflictError):
            await send(parts, "key.issue", kind="subscriber", command_id="k1")


async def test_filtered_ordered_and_direct_reads(own_nats_server: EmbeddedNats) -> None:
    async with handlers_on(own_nats_server) as parts:
        issued, _ = await two_tenants(parts)
        async with subscriber(issued["secret"]) as own:
            jetstream = own.client.jetstream()
            runs = await jetstream.pull_subscribe(
                "log.tnt_a.run.>", durable="billing", stream="EVENTS"
            )
            (message,) = await runs.fetch(1, timeout=10)
            await message.ack()
            audit = await jetstream.subscribe(
                "log.tnt_a.audit.>", stream="EVENTS", ordered_consumer=True
            )
            record = await audit.next_msg(10)
            first = record.data.splitlines()[0]
            assert json.loads(first)["event"]["type"] == "agentos.audit.recorded"
            last = await jetstream.get_msg("EVENTS", subject=message.subject, direct=True)
            assert last.data == message.data
            assert own.errors.empty()


async def test_a_broker_that_is_not_ours_takes_no_accounts(own_nats_server: EmbeddedNats) -> None:
    await provision(own_nats_server.url, durability="process", expect_log=False)
    settings = Settings.load(
        {
            "AGENTOS_DATA_DIR": str(own_nats_server.directory),
            "AGENTOS_NATS_URL": own_nats_server.url,
        }
    )
    client = await connect(own_nats_server.url, "handlers")
    parts = make_parts(settings, client)
    await send(parts, "tenant.create", profile={"name": "A"})
    with pytest.raises(ConflictError) as caught:
        await send(parts, "key.issue", kind="subscriber")
    assert caught.value.details["missing"]
    await bounded_close(client)
