# mypy: ignore-errors
# It runs in the peer's own environment, whose packages ours does not have.
"""DBOS behind FastAPI: `python dbos_app.py PORT DSN FILE`. Started again it recovers at once.

`POST /runs` does a durable workflow of three steps and answers its result, `POST /runs-threaded`
the same with plain functions instead of coroutines. `POST /slow` starts
one of many steps of 100 ms each; every step writes a line to FILE when it begins and ends.
"""

import asyncio
import os
import sys

import uvicorn
from dbos import DBOS
from fastapi import FastAPI
from pydantic import BaseModel

PORT, DSN, FILE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
SLOW_STEPS = 10
app = FastAPI()


class Body(BaseModel):
    """What a run is asked."""

    text: str


@DBOS.step()
async def plan(text: str) -> str:
    """The first step."""
    return text.upper()


@DBOS.step()
async def act(text: str) -> int:
    """The second step."""
    return len(text)


@DBOS.step()
async def answer(text: str, size: int) -> str:
    """The third step."""
    return f"{text} {size}"


@DBOS.workflow()
async def three_steps(text: str) -> str:
    """A run of three steps."""
    planned = await plan(text)
    return await answer(planned, await act(planned))


@DBOS.step()
def plan_threaded(text: str) -> str:
    """The first step, as a plain function on DBOS's threads."""
    return text.upper()


@DBOS.step()
def act_threaded(text: str) -> int:
    """The second step."""
    return len(text)


@DBOS.step()
def answer_threaded(text: str, size: int) -> str:
    """The third step."""
    return f"{text} {size}"


@DBOS.workflow()
def three_steps_threaded(text: str) -> str:
    """A run of three steps, as plain functions."""
    planned = plan_threaded(text)
    return answer_threaded(planned, act_threaded(planned))


@DBOS.step()
async def slow(name: str) -> str:
    """A step of 100 ms."""
    _note(f"begin {name}")
    await asyncio.sleep(0.1)
    _note(f"end {name}")
    return name


@DBOS.workflow()
async def many_slow(name: str) -> str:
    """A run of steps of 100 ms."""
    for number in range(SLOW_STEPS):
        await slow(f"{name}/{number}")
    _note(f"done {name}")
    return name


def _note(line: str) -> None:
    with open(FILE, "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


@app.post("/runs", status_code=201)
async def run(body: Body) -> dict[str, str]:
    """Do three steps and answer."""
    handle = await DBOS.start_workflow_async(three_steps, body.text)
    return {"output": await handle.get_result()}


@app.post("/runs-threaded", status_code=201)
def run_threaded(body: Body) -> dict[str, str]:
    """Do three steps on threads and answer."""
    return {"output": three_steps_threaded(body.text)}


@app.post("/slow", status_code=201)
async def start_slow(body: Body) -> dict[str, str]:
    """Start a slow run and answer at once."""
    handle = await DBOS.start_workflow_async(many_slow, body.text)
    return {"id": handle.get_workflow_id()}


def main() -> None:
    """Serve."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": DSN,
            "run_admin_server": False,
            "log_level": "ERROR",
            "application_version": "1",
            "executor_id": "local",
        }
    )
    os.umask(0o077)

    @app.on_event("startup")
    async def launch() -> None:
        DBOS.launch()

    uvicorn.run(
        app, port=PORT, loop="uvloop", http="httptools", access_log=False, log_level="error"
    )


if __name__ == "__main__":
    main()
