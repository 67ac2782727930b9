"""The NATS accounts of tenants that subscribe: their part of the server's configuration.

Each account has one stream, `EVENTS`: a copy of the tenant's run and audit events. The core
account lets it make consumers with that tenant's filters and no others, so the server itself
keeps tenants apart. Its subscribers may read; its manager, whose password stays with the data,
makes and removes the stream. All of it follows from the log; the file is only what the server
starts with.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentos.domain.subjects import log_filter, stream_name, tenant_filter
from agentos.infra.node.files import read_object, write_object

EVENTS: Final = "EVENTS"
KINDS: Final = ("run", "audit")
FILE: Final = "accounts.json"
MAX_BYTES: Final = 1 << 30
MAX_CONSUMERS: Final = 100
_SOURCE: Final = stream_name(0)
_INFO: Final = f"$JS.API.STREAM.INFO.{_SOURCE}"
_MAY_ASK: Final = tuple(
    f"$JS.API.{what}"
    for what in (
        "INFO",
        "STREAM.NAMES",
        "STREAM.LIST",
        f"STREAM.INFO.{EVENTS}",
        f"STREAM.MSG.GET.{EVENTS}",
        f"DIRECT.GET.{EVENTS}",
        f"DIRECT.GET.{EVENTS}.>",
        f"CONSUMER.NAMES.{EVENTS}",
        f"CONSUMER.LIST.{EVENTS}",
        f"CONSUMER.INFO.{EVENTS}.*",
        f"CONSUMER.CREATE.{EVENTS}",
        f"CONSUMER.CREATE.{EVENTS}.>",
        f"CONSUMER.DURABLE.CREATE.{EVENTS}.*",
        f"CONSUMER.MSG.NEXT.{EVENTS}.*",
        f"CONSUMER.DELETE.{EVENTS}.*",
    )
)


@dataclass(frozen=True, slots=True)
class TenantAccount:
    """One tenant's account: its manager's password, and its subscribers' bcrypt hashes by name."""

    tenant_id: str
    manager_password: str = field(repr=False)
    users: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Return the account's name on the server."""
        return f"TENANT_{self.tenant_id}"

    @property
    def manager(self) -> str:
        """Return the name of the user that keeps the stream."""
        return f"manager_{self.tenant_id}"


def api_prefix(tenant_id: str) -> str:
    """Return where a tenant's account finds the core account's JetStream API."""
    return f"core.{tenant_id}"


def deliver_prefix(tenant_id: str) -> str:
    """Return the subjects on which the core account delivers to a tenant's stream."""
    return f"deliver.{tenant_id}"


def events_stream(tenant_id: str) -> dict[str, Any]:
    """Return the configuration of a tenant's stream; its subjects are without the partition.

    What it takes in is published too, so that plain subscriptions hear it: only what the log
    has committed. The oldest goes when it is full.
    """
    external = {"api": api_prefix(tenant_id), "deliver": deliver_prefix(tenant_id)}
    return {
        "name": EVENTS,
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_bytes": MAX_BYTES,
        "num_replicas": 1,
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": True,
        "republish": {"src": ">", "dest": ">"},
        "sources": [
            {
                "name": _SOURCE,
                "external": external,
                "subject_transforms": [
                    {
                        "src": log_filter(0, tenant_id, kind),
                        "dest": tenant_filter(tenant_id, kind),
                    }
                ],
            }
            for kind in KINDS
        ],
    }


def core_exports(accounts: Iterable[TenantAccount]) -> str:
    """Return the exports of the core account, as a line of its configuration; empty for none."""
    lines = []
    for account in accounts:
        only = f"accounts: [{_q(account.name)}]"
        lines += [f"{{service: {_q(s)}, {only}}}" for s in _services(account.tenant_id)]
        lines.append(f"{{stream: {_q(deliver_prefix(account.tenant_id) + '.>')}, {only}}}")
    if not lines:
        return ""
    shared = [f"{{service: {_q(subject)}}}" for subject in (_INFO, "$JS.FC.>")]
    return _array("exports", shared + lines)


def account_blocks(accounts: Iterable[TenantAccount], core: str) -> str:
    """Return the tenants' accounts; `core` is the name of the account that has the log."""
    return "".join(_block(account, core) for account in accounts)


def read_accounts(home: Path) -> dict[str, TenantAccount]:
    """Return the accounts that are written down in the server's home, by tenant."""
    known = read_object(home / FILE).get("tenants", {})
    return {
        tenant_id: TenantAccount(tenant_id, found["manager_password"], dict(found["users"]))
        for tenant_id, found in sorted(known.items())
    }


def write_accounts(home: Path, accounts: dict[str, TenantAccount], applied: str) -> None:
    """Write the accounts down, readable by the node only; `applied` says what the server has."""
    tenants = {
        tenant_id: {"manager_password": account.manager_password, "users": account.users}
        for tenant_id, account in sorted(accounts.items())
    }
    write_object(home / FILE, {"tenants": tenants, "applied": applied})


def read_applied(home: Path) -> str:
    """Return what the server was last known to have."""
    return str(read_object(home / FILE).get("applied", ""))


def _services(tenant_id: str) -> list[str]:
    made = f"$JS.API.CONSUMER.CREATE.{_SOURCE}.*"
    return [f"{made}.{log_filter(0, tenant_id, kind)}" for kind in KINDS]


def _block(account: TenantAccount, core: str) -> str:
    manager = f"{{user: {_q(account.manager)}, password: {_q(account.manager_password)}}}"
    subscribers = [_subscriber(account, *user) for user in sorted(account.users.items())]
    return (
        f"  {_q(account.name)} {{\n"
        f"    jetstream {{max_mem: 16MB, max_file: {2 * MAX_BYTES}, max_streams: 1, "
        f"max_consumers: {MAX_CONSUMERS}}}\n"
        f"    {_array('users', [manager, *subscribers])}"
        f"    {_array('imports', _imports(account.tenant_id, core))}"
        "  }\n"
    )


def _subscriber(account: TenantAccount, name: str, hashed: str) -> str:
    publish = [*_MAY_ASK, f"$JS.ACK.{EVENTS}.>", f"$JS.FC.{EVENTS}.>"]
    subscribe = ["_INBOX.>", *(tenant_filter(account.tenant_id, kind) for kind in KINDS)]
    allowed = json.dumps({"publish": publish, "subscribe": subscribe})
    return f"{{user: {_q(name)}, password: {_q(hashed)}, permissions: {allowed}}}"


def _imports(tenant_id: str, core: str) -> list[str]:
    prefix = api_prefix(tenant_id)

    def of(kind: str, subject: str) -> str:
        return f"{kind}: {{account: {_q(core)}, subject: {_q(subject)}}}"

    services = [*_services(tenant_id), _INFO]
    asked = [f"{{{of('service', s)}, to: {_q(s.replace('$JS.API', prefix, 1))}}}" for s in services]
    flow = f"{{{of('service', '$JS.FC.>')}}}"
    return [*asked, flow, f"{{{of('stream', deliver_prefix(tenant_id) + '.>')}}}"]


def _array(name: str, lines: list[str]) -> str:
    inside = "".join(f"      {line}\n" for line in lines)
    return f"{name}: [\n{inside}    ]\n"


def _q(text: str) -> str:
    return json.dumps(text)
