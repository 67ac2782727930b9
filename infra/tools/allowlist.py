"""Which hosts a tool may fetch from, by name and by the address behind the name."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from yarl import URL

Address = IPv4Address | IPv6Address

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_TRANSLATED: Final = ip_network("64:ff9b::/96")
_METADATA: Final = frozenset(
    map(ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"))
)


class Allowlist:
    """Patterns `host` or `host:port`, in which `*` stands for any characters.

    Without a port the scheme's own is meant; `host:*` is any. An IPv6 address stands in
    brackets. An empty list allows nothing.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Read the patterns; `ValueError` for one that could match nothing."""
        self._patterns = [_compile(pattern) for pattern in patterns]

    def allows(self, url: URL) -> bool:
        """Whether the URL's host and port are on the list."""
        host = (url.host_subcomponent or "").lower().rstrip(".")
        default = url.port == _DEFAULT_PORTS.get(url.scheme)
        return any(
            hosts.fullmatch(host) and (default if ports is None else ports.fullmatch(str(url.port)))
            for hosts, ports in self._patterns
        )


def _compile(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.*]+\]|[^\s:/@\[\]]+)(?::([0-9*]+))?", pattern)
    if match is None:
        raise ValueError(f"not host or host:port: {pattern!r}")
    host = match[1].lower().rstrip(".")
    return _glob(host), _glob(match[2]) if match[2] else None


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))


def is_address_allowed(text: str, *, allow_private: bool) -> bool:
    """Whether a tool may connect to the address.

    Public addresses: yes. Private and loopback ones: with `allow_private`. Link-local,
    multicast and unspecified addresses and the metadata services of clouds: never. An IPv4
    address inside an IPv6 one (mapped, translated, 6to4, Teredo) counts as itself too.
    """
    address = ip_address(text.partition("%")[0])
    return all(_is_allowed(each, allow_private) for each in (address, *_inside(address)))


def _inside(address: Address) -> list[Address]:
    if isinstance(address, IPv4Address):
        return []
    inside: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    inside += address.teredo or ()
    if address in _TRANSLATED or (int(address) >> 32 == 0 and int(address) > 1):
        inside.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in inside if each is not None]


def _is_allowed(address: Address, allow_private: bool) -> bool:
    if (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
    ):
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return True  # judged by the address inside
    return allow_private or address.is_global
