"""A tenant with the switch: its content is in no file, everyone may read it, and then nobody."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from agentos.domain.run.run import run_ref
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.content_keys import JetStreamContentKeys
from tests.contracts.logs import until
from tests.journeys.real_node import Client, RealNode, eventually, real_node, unused_node

SECRET_WORDS = ("zanzibar-4711", "marmalade-0815", "quixotic-2357")
OTHER = "tangerine-6006"
TEXT = 'call tool.echo {"text": "marmalade-0815"}\nzanzibar-4711\nfail quixotic-2357'
ADMIN = {"X-Scopes": "tenants:admin platform:admin runs:read"}


@pytest.fixture(scope="module")
def node() -> Iterator[RealNode]:
    with real_node() as node:
        yield node


async def switch(client: Client, **privacy: bool) -> None:
    status, answer = await client.ask(
        "PATCH", "/v1/admin/tenants/tnt_demo", json={"privacy": privacy}, headers=ADMIN
    )
    assert status == 200, answer
    assert answer["tenant"]["privacy"]["erasure"] is privacy["erasure"]


def files_with(directory: Path, words: tuple[str, ...]) -> dict[str, set[str]]:
    """Return in which files of a directory which of the words stand."""
    found: dict[str, set[str]] = {}
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            there = {word for word in words if word.encode("latin-1") in content}
            if there:
                found[str(path.relative_to(directory))] = there
    return found


async def settled(client: Client, *run_ids: str) -> None:
    """Wait until the lists show that the runs have ended."""
    async with asyncio.timeout(20):
        for run_id in run_ids:
            while run_id not in await ended(client):  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.1)


async def ended(client: Client) -> set[str]:
    _, page = await client.ask("GET", "/v1/runs?limit=200")
    return {run["run_id"] for run in page["runs"] if "completed_at" in run}


async def stored_key(node: RealNode, key_id: str) -> str:
    """Return a piece of a stored (wrapped) key, as its bytes stand in the broker's file."""
    connection = await connect(node.runtime()["nats_url"], "test")
    try:
        body = await JetStreamContentKeys(connection).read("tnt_demo", key_id)
        assert body
        return body[16:].decode("latin-1")
    finally:
        await bounded_close(connection)


async def seen(client: Client, run_id: str) -> dict[str, str]:
    """Return all that the doors show of a run, as texts."""
    _, got = await client.ask("GET", f"/v1/runs/{run_id}")
    _, page = await client.ask("GET", "/v1/runs?limit=200")
    (listed,) = [run for run in page["runs"] if run["run_id"] == run_id]
    events = await client.events(run_id)
    waited = await client.wait(run_id)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    shown: dict[str, Any] = {"run": got["run"], "listed": listed, "waited": waited}
    assert shown["listed"] == shown["run"] == shown["waited"]
    return {name: json.dumps(what) for name, what in (shown | {"events": events}).items()}


async def stored(node: RealNode, run_id: str) -> list[bytes]:
    async with node.log() as log:
        records = await log.read(run_ref("tnt_demo", run_id))
    assert all(record.sealed.startswith("sub_") for record in records)
    return [record.body for record in records]


async def run_both(client: Client) -> tuple[str, str]:
    """Have a run of Ida's and one of Olaf's, both ended and listed."""
    await switch(client, erasure=True)
    run_id = await client.start(f"sleep 300\n{TEXT}", context={"user_id": "usr_ida"})
    live = [event async for event in client.follow(run_id)]
    assert live == await client.events(run_id)
    other_id = await client.start(OTHER, context={"user_id": "usr_olaf"})
    run, other = await client.wait(run_id), await client.wait(other_id)
    assert (run["status"], other["status"]) == ("failed", "completed")
    await settled(client, run_id, other_id)
    return run_id, other_id


async def test_content_is_sealed_and_shown_then_erased_for_ever(node: RealNode) -> None:
    async with node.client() as client:
        run_id, other_id = await run_both(client)
        before, others = await seen(client, run_id), await seen(client, other_id)
        assert all("quixotic-2357" in text for text in before.values())
        assert all(word in before["events"] for word in SECRET_WORDS)
        assert all(OTHER in text for text in others.values())
    bodies = await stored(node, run_id)
    replayed = node.told("replay", "run", run_id)
    assert (replayed["equal"], replayed["erased"]) == (True, False)

    node.down()  # what the servers have in memory is in their files now
    assert files_with(node.data, (*SECRET_WORDS, OTHER)) == {}
    node.up()

    await erase(node)
    async with node.client() as client:
        after = await seen(client, run_id)
        assert all("[erased]" in text for text in after.values())
        assert not any(word in text for word in SECRET_WORDS for text in after.values())
        assert await seen(client, other_id) == others
    assert await stored(node, run_id) == bodies  # the log has not changed
    still_verifies(node, run_id, replayed["digest"])

    async with node.client() as client:
        later_id = await client.start(TEXT, context={"user_id": "usr_ida"})
        assert "quixotic-2357" in json.dumps(await client.wait(later_id))
    node.down()
    node.up()
    async with node.client() as client:
        assert await seen(client, run_id) == after
        assert await seen(client, other_id) == others
        assert "quixotic-2357" in json.dumps(await client.wait(later_id))


async def erase(node: RealNode) -> None:
    """Erase Ida, and see what the reports say and what becomes of the key's bytes."""
    counted = node.told("erase", "usr_ida", "--dry-run")["erasure"]
    assert (counted["done_now"], counted["runs"], counted["events"]) == (False, 1, 15)
    key = await stored_key(node, counted["key_id"])
    assert files_with(node.data / "nats", (key,))
    done = node.told("erase", "usr_ida", "--yes-really")["erasure"]
    assert (done["done_now"], done["erased"], done["events"]) == (True, True, 15)
    assert done["refolded"][0] == {"projection": "runs", "rows": 1}
    assert files_with(node.data / "nats", (key,)) == {}
    again = node.told("erase", "usr_ida", "--yes-really")["erasure"]
    assert again["done_now"] is False
    assert again["key_destroyed_at"] == done["key_destroyed_at"]
    asked = node.command("erase", "usr_ida")
    assert asked.returncode != 0
    assert "type its id" in asked.stderr


def still_verifies(node: RealNode, run_id: str, digest: str) -> None:
    told = node.command("replay", "run", run_id, "--json")
    found = json.loads(told.stdout)
    assert told.returncode == 1
    assert (found["erased"], found["equal"], found["first_difference"]) == (True, False, None)
    assert found["digest"] == found["recorded_digest"] == digest
    assert node.told("audit", "verify", "--tenant", "tnt_demo")["ok"]
    capsule = node.command("replay", "export", run_id, "-o", str(node.directory / "capsule"))
    assert capsule.returncode == 1
    assert "erased" in capsule.stderr


async def test_a_subscriber_on_the_broker_hears_what_is_sealed(node: RealNode) -> None:
    secret = node.told("keys", "issue", "--tenant", "tnt_demo", "--kind", "subscriber")["secret"]
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    subscriber = await nats.connect(secret)
    try:
        await subscriber.subscribe("log.tnt_demo.run.>", cb=hear)
        await subscriber.flush()
        async with node.client() as client:
            await switch(client, erasure=True)
            run_id = await client.start(TEXT, context={"user_id": "usr_eve"})
            await client.wait(run_id)

            async def has_ended() -> bool:
                return any(run_id.encode() in one and b"run.failed" in one for one in heard)

            await until(has_ended, within=30)
            events = await client.events(run_id)
    finally:
        await subscriber.close()
    lines = [line for one in heard for line in one.split(b"\n") if run_id.encode() in line]
    inner = [json.loads(line)["event"] for line in lines]
    assert {one["event_id"] for one in inner} <= {one["event_id"] for one in events}
    assert any('"sealed":"sub_' in line.decode() for line in lines)
    for word in SECRET_WORDS:
        assert not any(word.encode() in line for line in lines)


async def test_bodies_of_direct_calls_are_kept_sealed_and_judged_by(
    node: RealNode, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(NO_CUCUMBER))
    asked = {
        "request_id": "req_cucumber",
        "operation": "chat",
        "model_ref": "builtin/echo",
        "input": {"messages": [{"role": "user", "content": "cucumber-9009"}]},
    }
    async with node.client() as client:
        await switch(client, erasure=True, record_bodies=True)
        url = f"{node.door('model_policy')}/v1/models:invoke"
        headers = {"X-Tenant-Id": "tnt_demo", "X-Principal-Id": "usr_gus"}
        async with client.http.post(url, json={"request": asked}, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
        found = await judged(node, policy, bodies=1)
        assert found["would_block"] == 1
        (change,) = found["changes"]
        assert (change["request_id"], change["would"]) == ("req_cucumber", "blocked")
        assert files_with(node.data, ("cucumber-9009",)) == {}
        node.told("erase", "usr_gus", "--yes-really")
        found = await judged(node, policy, bodies=0)
        assert found["would_block"] == 0
        again = {**headers, "X-Correlation-Id": "corr_again"}
        async with client.http.post(url, json={"request": asked}, headers=again) as answer:
            assert answer.status == 410
            assert (await answer.json())["error"]["code"] == "erased"
        await switch(client, erasure=True, record_bodies=False)


NO_CUCUMBER = {
    "name": "no cucumber",
    "rules": [
        {
            "name": "no_cucumber",
            "effect": "block",
            "when": {
                "direction": ["input"],
                "content_patterns": [{"name": "cucumber", "regex": "cucumber-[0-9]{4}"}],
            },
        }
    ],
}


async def judged(node: RealNode, policy: Path, *, bodies: int) -> dict[str, Any]:
    """Return what a policy would have done, once so many calls are judged by their bodies."""
    found: dict[str, Any] = {}

    async def is_so() -> bool:
        done = await asyncio.to_thread(
            node.command, "replay", "policy", str(policy), "--since", "1h", "--json"
        )
        assert done.returncode == 0, done.stderr
        found.update(json.loads(done.stdout))
        direct = found["judged_from"]["bodies"] + found["judged_from"]["findings"]
        return bool(direct) and found["judged_from"]["bodies"] == bodies

    await until(is_so, within=60)
    return found


def test_what_was_erased_stays_so_after_a_restore(node: RealNode, tmp_path: Path) -> None:
    async def run_and_erase() -> tuple[str, str]:
        async with node.client() as client:
            await switch(client, erasure=True)
            erased = await client.start(TEXT, context={"user_id": "usr_kim"})
            kept = await client.start(OTHER, context={"user_id": "usr_lou"})
            await client.wait(erased)
            await client.wait(kept)
        node.told("erase", "usr_kim", "--yes-really")
        return erased, kept

    erased, kept = asyncio.run(run_and_erase())
    directory = tmp_path / "backup"
    node.told("backup", "-o", str(directory))
    words = (*SECRET_WORDS, OTHER)
    assert files_with(directory, words) == {}
    assert OTHER.encode() not in gzip.decompress((directory / "log.gz").read_bytes())
    with unused_node() as restored:
        restored.told("restore", str(directory))
        restored.up()

        async def look() -> None:
            async with restored.client() as client:
                assert "[erased]" in json.dumps(await client.events(erased))
                assert OTHER in json.dumps(await client.events(kept))
                later = await client.start(TEXT, context={"user_id": "usr_kim"})
                assert "quixotic-2357" in json.dumps(await client.wait(later))

        asyncio.run(look())
        assert restored.told("audit", "verify", "--tenant", "tnt_demo")["ok"]


def test_a_kill_in_the_middle_of_an_erasure_is_made_good() -> None:
    with real_node(AGENTOS_CRASH_POINT="handlers.after_subject_erased") as node:

        async def story() -> None:
            async with node.client() as client:
                await switch(client, erasure=True)
                run_id = await client.start(TEXT, context={"user_id": "usr_ida"})
                await client.wait(run_id)
                before = node.pids()["handlers"]
                died = await asyncio.to_thread(node.command, "erase", "usr_ida", "--yes-really")
                assert died.returncode != 0

                async def is_erased() -> bool:
                    return "[erased]" in json.dumps(await client.events(run_id))

                await until(is_erased, within=60)
                await eventually(
                    lambda: node.states()["handlers"][1] == "running", 60, "handlers are back"
                )
                assert node.pids()["handlers"] != before

                async def is_completed() -> bool:
                    told = await asyncio.to_thread(
                        node.command, "erase", "usr_ida", "--yes-really", "--json"
                    )
                    return told.returncode == 0 and json.loads(told.stdout)["erasure"]["runs"] == 1

                await until(is_completed, within=60)

        asyncio.run(story())
