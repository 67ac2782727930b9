"""Links between brokers: leaf nodes, with an account for each peer and direction.

A receiver's account `TO_<peer>` has one stream, `EVENTS`, of the runs that came through that
peer and of nothing else; the peer's broker enters it as a leaf node that may make a consumer on
that stream, and nothing more. An origin's account `FROM_<peer>` has a stream that sources it. No
account imports or exports anything: what is not fed into the stream cannot be reached.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agentos.infra.node.files import read_object, write_object

EVENTS: Final = "EVENTS"
SUBJECTS: Final = "events"
FILE: Final = "links.json"
MAX_BYTES: Final = 1 << 30
MAX_AGE_S: Final = 3600
RECONNECT: Final = "1s"


@dataclass(frozen=True, slots=True)
class Link:
    """One peer's link. With a `leaf_url` this node takes events there; `gives` says it gives."""

    stack_id: str
    secret: str = field(repr=False)
    leaf_url: str | None = None
    gives: bool = False


@dataclass(frozen=True, slots=True)
class Links:
    """All links of a node. `tls` are the files of the authority, the certificate and its key."""

    stack_id: str
    listen: str | None = None
    tls: tuple[str, str, str] | None = None
    links: tuple[Link, ...] = ()


def giver(link: Link, own: str) -> tuple[str, str]:
    """Return user and password of the process that feeds a peer's stream."""
    return f"give_{link.stack_id}", _derived(link.secret, "give", link.stack_id, own)


def taker(link: Link, own: str) -> tuple[str, str]:
    """Return user and password of the process that reads what came from a peer."""
    return f"take_{link.stack_id}", _derived(link.secret, "take", own, link.stack_id)


def leaf(secret: str, origin: str, receiver: str) -> tuple[str, str]:
    """Return user and password with which an origin's broker enters a receiver's."""
    return f"leaf_{origin}", _derived(secret, "leaf", origin, receiver)


def given_stream() -> dict[str, Any]:
    """Return the configuration of a receiver's stream: only on its way, the log has it all."""
    return _stream() | {"subjects": [f"{SUBJECTS}.>"]}


def taken_stream(stack_id: str) -> dict[str, Any]:
    """Return the configuration of an origin's stream, which sources that of a peer."""
    external = {"api": f"{api_of(stack_id)}.API", "deliver": ""}
    return _stream() | {"sources": [{"name": EVENTS, "external": external}]}


def api_of(stack_id: str) -> str:
    """Return where the JetStream of a peer's broker is asked through a leaf node."""
    return f"$JS.{stack_id}"


def domain_line(links: Links) -> str:
    """Return the JetStream domain, which tells two linked brokers apart; empty without links."""
    return f"  domain: {_q(links.stack_id)}\n" if links.links else ""


def link_accounts(links: Links) -> str:
    """Return the accounts of all links, as part of the server's configuration."""
    return "".join(_accounts(link, links.stack_id) for link in links.links)


def leafnodes_block(links: Links) -> str:
    """Return where leaf nodes come in and where this broker is one; empty for neither.

    Brokers neither tell nor take addresses: a leaf node goes where its peers file says, which
    may be through a tunnel or a proxy, and not to what the other broker believes it listens on.
    """
    remotes = [link for link in links.links if link.leaf_url]
    if not (remotes or links.listen):
        return ""
    lines = [f"  reconnect: {RECONNECT}\n"]
    if links.listen:
        lines.append(f"  listen: {_q(links.listen)}\n  no_advertise: true\n")
        if links.tls:
            lines.append(f"  tls: {_tls(links.tls, verify=True)}\n")
    if remotes:
        inside = "".join(f"    {_remote(link, links)}\n" for link in remotes)
        lines.append(f"  remotes: [\n{inside}  ]\n")
    return f"leafnodes {{\n{''.join(lines)}}}\n"


def read_links(home: Path) -> Links:
    """Return the links that are written down in the server's home."""
    known = read_object(home / FILE)
    if not known:
        return Links("")
    tls = known["tls"]
    links = tuple(Link(**link) for link in known["links"])
    return Links(known["stack_id"], known["listen"], tuple(tls) if tls else None, links)


def write_links(home: Path, links: Links) -> None:
    """Write the links down, readable by the node only."""
    found = [
        {"stack_id": x.stack_id, "secret": x.secret, "leaf_url": x.leaf_url, "gives": x.gives}
        for x in links.links
    ]
    written = {"stack_id": links.stack_id, "listen": links.listen, "tls": links.tls}
    write_object(home / FILE, written | {"links": found})


def _stream() -> dict[str, Any]:
    return {
        "name": EVENTS,
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_bytes": MAX_BYTES,
        "max_age": MAX_AGE_S * 1_000_000_000,
        "num_replicas": 1,
        "allow_direct": True,
    }


def _derived(secret: str, *what: str) -> str:
    return hmac.new(secret.encode(), "\n".join(what).encode(), hashlib.sha256).hexdigest()


def _accounts(link: Link, own: str) -> str:
    found = ""
    if link.gives:
        enters = _user(leaf(link.secret, link.stack_id, own), _may_enter(own))
        found += _account(f"TO_{link.stack_id}", [_user(giver(link, own)), enters])
    if link.leaf_url:
        found += _account(f"FROM_{link.stack_id}", [_user(taker(link, own))])
    return found


def _account(name: str, users: list[str]) -> str:
    limits = f"{{max_mem: 16MB, max_file: {2 * MAX_BYTES}, max_streams: 1, max_consumers: 16}}"
    return f"  {_q(name)} {{\n    jetstream {limits}\n    users: [{', '.join(users)}]\n  }}\n"


def _user(named: tuple[str, str], more: str = "") -> str:
    return f"{{user: {_q(named[0])}, password: {_q(named[1])}{more}}}"


def _may_enter(own: str) -> str:
    """Return what a leaf node may do here: make a consumer on the one stream, and hear it."""
    api = f"{api_of(own)}.API"
    publish = [
        f"{api}.STREAM.INFO.{EVENTS}",
        f"{api}.CONSUMER.CREATE.{EVENTS}",
        f"{api}.CONSUMER.CREATE.{EVENTS}.>",
        f"{api}.CONSUMER.INFO.{EVENTS}.*",
        f"{api}.CONSUMER.DELETE.{EVENTS}.*",
        "$JS.FC.>",
        "$JS.ACK.>",
    ]
    subscribe = ["$JS.S.>", "S.>", "$JS.M.>", "$JSC.R.>", "_INBOX.>", "$JS.FC.>"]
    allowed = json.dumps({"publish": publish, "subscribe": subscribe})
    return f', allowed_connection_types: ["LEAFNODE"], permissions: {allowed}'


def _remote(link: Link, links: Links) -> str:
    url = urlsplit(link.leaf_url or "")
    user, password = leaf(link.secret, links.stack_id, link.stack_id)
    scheme = "tls" if url.scheme == "tls" else "nats-leaf"
    tls = f", tls: {_tls(links.tls, verify=False)}" if scheme == "tls" and links.tls else ""
    where = _q(f"{scheme}://{user}:{password}@{url.netloc}")
    account = _q(f"FROM_{link.stack_id}")
    return f"{{urls: [{where}], ignore_discovered_servers: true, account: {account}{tls}}}"


def _tls(files: tuple[str, str, str], *, verify: bool) -> str:
    authority, certificate, key = files
    found: dict[str, Any] = {"ca_file": authority, "cert_file": certificate, "key_file": key}
    return json.dumps(found | ({"verify": True} if verify else {}))


def _q(text: str) -> str:
    return json.dumps(text)
