"""A run is forwarded, streamed back, canceled; nothing is made twice, whatever was lost."""

from tests.federation.node import two_nodes


async def test_a_run_is_forwarded_and_comes_back() -> None:
    async with two_nodes() as (a, b):
        status, body = await a.forward({"stack_id": "stk_b"})
        assert status == 200, body
        forwarded = body["forwarded"]
        run_id = forwarded["remote_run_id"]
        assert (forwarded["tenant_id"], forwarded["remote_stack_id"]) == ("tnt_a", "stk_b")
        assert forwarded["remote_events_url"] == f"{b.door.urls[0]}/v1/runs/{run_id}/events"
        assert forwarded["status"] == "queued"
        assert (await a.runs(), await b.runs()) == ([], [run_id])
        await b.step(run_id)
        await b.end(run_id)
        await a.wait_copied(run_id, 3)
        assert await a.copied(run_id) == await b.lines(run_id)
        status, body = await a.call("GET", f"/v1/runs/{run_id}", door=0)
        assert (status, body["run"]["status"]) == (200, "completed")
        assert body["run"]["remote"]["stack_id"] == "stk_b"
        assert body["run"]["output"] == {"type": "text", "text": "done"}
