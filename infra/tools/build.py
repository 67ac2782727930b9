"""Which tools a node has."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentos.domain.ports import Clock
from agentos.infra.tools.allowlist import Allowlist
from agentos.infra.tools.basic import calculate_tool, echo_tool, time_tool
from agentos.infra.tools.guarded_http import GuardedHttp
from agentos.infra.tools.http_fetch import http_fetch_tool
from agentos.infra.tools.key_value import KeyValue, kv_get_tool, kv_put_tool
from agentos.infra.tools.probe import probe_tools
from agentos.infra.tools.registry import Tools
from agentos.infra.tools.tool import Tool


class WallClock:
    """The machine's time of day."""

    def now_ms(self) -> int:
        """Return the milliseconds since the epoch."""
        return time.time_ns() // 1_000_000


def build_tools(
    *,
    kv: KeyValue,
    http_allowlist: Sequence[str],
    allow_private: bool,
    probe_dir: Path | None = None,
    clock: Clock | None = None,
    more: Sequence[Tool[Any]] = (),
) -> Tools:
    """Return the product's tools and `more`; the probes only where a directory is given.

    `http_allowlist` holds `host` and `host:port` patterns (see `Allowlist`); empty: nothing is
    fetched. `ValueError` for a pattern that cannot match, or a tool id that stands twice.
    """
    http = GuardedHttp(allow_private=allow_private)
    tools: list[Tool[Any]] = [
        echo_tool(),
        calculate_tool(),
        time_tool(clock or WallClock()),
        kv_put_tool(kv),
        kv_get_tool(kv),
        http_fetch_tool(Allowlist(http_allowlist), http),
        *(probe_tools(probe_dir) if probe_dir is not None else ()),
        *more,
    ]
    return Tools(tools)
