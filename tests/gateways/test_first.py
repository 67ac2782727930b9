"""Smoke."""

from tests.gateways.conftest import Door, Reader, bearer, sequences


async def test_get_and_stream(door: Door) -> None:
    script = await door.finished()
    status, body, headers = await door.call("GET", f"/v1/runs/{script.run_id}")
    assert status == 200, body
    print(body, dict(headers))
    async with door.client.get(f"/v1/runs/{script.run_id}/events", headers=bearer()) as response:
        assert response.status == 200, await response.text()
        got = await Reader(response).rest()
    assert sequences(got) == [1, 2, 3]


async def test_create(door: Door) -> None:
    door.answer("run.create", {"run": {"run_id": "run_1"}, "position": 1, "existing": False})
    status, body = await door.create({"input": {"type": "text", "text": "hi"}})
    assert status == 201
    print(body, door.sent)
