"""A real run on a real node: replayed to its audited digest, forked, carried away."""

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.journeys.real_node import Client, RealNode, real_node

TEXT = 'calculate 6 * 7\ncall tool.echo {"to": "anna@example.org"}'


@pytest.fixture(scope="module")
def node() -> Iterator[RealNode]:
    """A node of this file alone."""
    with real_node() as made:
        yield made


@pytest.fixture
async def client(node: RealNode) -> AsyncIterator[Client]:
    """A user of the demo tenant."""
    async with node.client() as made:
        yield made


def said(node: RealNode, *args: str, code: int = 0) -> dict[str, object]:
    """Run a command and return its JSON."""
    done = node.command(*args, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


async def finished(client: Client, text: str = TEXT) -> str:
    run_id = await client.start(text)
    assert (await client.wait(run_id))["status"] == "completed"
    return run_id


async def audited(node: RealNode, run_id: str) -> dict[str, object]:
    """Replay a run, once the auditor has written down its end."""
    import asyncio

    async with asyncio.timeout(30):
        while True:
            found = await asyncio.to_thread(said, node, "replay", "run", run_id)
            if found["recorded_digest"] is not None:
                return found
            await asyncio.sleep(0.2)


async def test_a_run_replays_to_the_digest_that_was_audited(node: RealNode, client: Client) -> None:
    run_id = await finished(client)
    found = await audited(node, run_id)
    assert found["equal"] is True, found
    assert found["digest"] == found["recorded_digest"]
    assert found["notes"] == []
    state = said(node, "state", "run", run_id, "--at", "1")
    assert state["sequence"] == 1
    quota = said(node, "state", "quota", "tnt_demo")
    assert quota["state"]


async def test_a_fork_goes_on_from_the_recorded_past(node: RealNode, client: Client) -> None:
    run_id = await finished(client)
    made = said(node, "replay", "run", run_id, "--from", "2", "--fork", "--key", "k")["run"]
    assert isinstance(made, dict)
    assert made["forked_from"] == {"run_id": run_id, "from_step": 2}
    again = said(node, "replay", "run", run_id, "--from", "2", "--fork", "--key", "k")["run"]
    assert isinstance(again, dict)
    assert again["run_id"] == made["run_id"]
    done = await client.wait(made["run_id"])
    assert done["status"] == "completed"
    assert done["forked_from"] == {"run_id": run_id, "from_step": 2}
    first = (await client.wait(run_id))["output"]
    assert done["output"] == first
    found = await audited(node, made["run_id"])
    assert found["equal"] is True, found


async def test_a_capsule_without_what_identifies_people(node: RealNode, client: Client) -> None:
    run_id = await finished(client)
    path = str(node.data.parent / "incident.capsule")
    made = said(node, "replay", "export", run_id, "-o", path)
    assert made["runs"] == 1
    found = said(node, "replay", "run", "--capsule", path)
    assert found["equal"] is True
    assert found["digest"] != found["original_digest"]
    shown = node.command("replay", "run", "--capsule", path, "--at", "1")
    assert "anna@example.org" not in shown.stdout


async def test_digests_and_a_policy_on_what_was(node: RealNode, client: Client) -> None:
    await finished(client)
    digests = said(node, "replay", "digest")
    assert digests["projections"]
    policy = node.data.parent / "policy.json"
    rule = {"name": "no_mail", "effect": "block", "when": {"pii_types": ["email"]}}
    policy.write_text(json.dumps({"name": "p", "rules": [rule]}))
    found = said(node, "replay", "policy", str(policy), "--since", "1h")
    assert isinstance(found["decisions"], int)
    assert found["decisions"] >= 2
    assert found["would_block"]
