"""Our own node doing what the peers do, in the same run."""

from importlib.metadata import version
from typing import Any

from tests.bench.node import SCRIPTED, running
from tests.bench.rows.runs import THREE_STEPS
from tests.bench.stats import percentile


async def run_ours(*, seconds: float, runs: int) -> dict[str, Any]:
    """Measure echo runs and runs of three steps, at 32 clients and alone."""
    lines: list[tuple[str, str, list[float]]] = []
    async with running() as node:
        await node.load("whole", tag="warm", clients=32, count=300)
        kinds: tuple[tuple[str, dict[str, Any]], ...] = (
            ("echo runs", {}),
            ("runs of three steps", {"agent": SCRIPTED, "body": THREE_STEPS}),
        )
        for name, more in kinds:
            many, alone = [], []
            for trial in range(runs):
                tag = f"{name[:3]}{trial}"
                outcome = await node.load("whole", tag=tag, clients=32, seconds=seconds, **more)
                many.append(outcome.rate)
                single = await node.load("stream", tag=f"a{tag}", clients=1, count=100, **more)
                alone.append(percentile(single.latencies, 0.5) * 1000)
            lines.append((f"{name}, 32 clients", "/s", many))
            lines.append((f"{name}, one alone, p50", "ms", alone))
    return {"version": version("agentos"), "figures": lines}
