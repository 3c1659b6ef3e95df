"""Which places a caller may have us reach: the guard against requests into our own network. Pure.

A caller may name any public place, on the usual ports. A name that leads to this machine, to a private network, to a
cloud's metadata or to anything else that is not the public Internet is refused, whatever form the address has, unless
the settings allow it.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from gimle.foundation.errors import ConfigError, UrlNotAllowed

_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 8192
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|[0-9a-f:.]*:[0-9a-f:.]*")
_ENTRY = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:/\[\]]+))(?::(?P<port>[0-9]{1,5}))?")
# What stays as it is in the path and query of a URL: all else is written as %XX.
_KEPT = "%/:=&?~#+!$,;'@()*[]|"

# Of IPv4, what IANA's registry of special-purpose addresses keeps from the public, multicast, and what is left over.
# The last is public and yet a cloud's own: Azure answers there with what only its virtual machines may know.
_CLOSED_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    )
]  # fmt: skip
# Of IPv6, only the part that is given out to the public is open, so that mapped, translated (NAT64), local and
# multicast addresses are closed by themselves; and of that, not what holds an IPv4 address inside (Teredo, 6to4) or is
# for books.
_OPEN_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]


class Place(msgspec.Struct, frozen=True):
    """Where a URL leads: the URL in plain ASCII without its fragment, the host in lower case, and the port."""

    url: str
    host: str
    port: int


class Guard:
    """Which places a caller may name. `allow` adds to the public ones: `host`, `host:port` or a network such as
    `10.1.0.0/16`. A host that is allowed may lead anywhere. Raises `ConfigError` for an entry that is none of these.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._hosts: set[tuple[str, int]] = set()
        for entry in allow:
            self._allow(entry)

    def place(self, url: str) -> Place:
        """Where a URL leads. Raises `UrlNotAllowed` unless it is http or https, to a port that may be reached."""
        place, scheme = _parsed(url)
        if place.port not in _PORTS.values() and (place.host, place.port) not in self._hosts:
            raise UrlNotAllowed(
                f"Gimle fetches {scheme} from the ports 80 and 443 only.",
                hint="An administrator can add the host and its port to gateway.fetch_allow.",
            )
        return place

    def check(self, place: Place, addresses: Sequence[str]) -> None:
        """Raises `UrlNotAllowed` if even one of the addresses of the place may not be reached."""
        if (place.host, place.port) in self._hosts:
            return
        if not all(self._open(address) for address in addresses):
            # Which address it is stays untold: names of our own network are nobody's business.
            raise UrlNotAllowed(
                f"{place.host} is not on the public Internet.",
                hint="An administrator can add it to gateway.fetch_allow.",
            )

    def _open(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return public(parsed) or any(parsed in network for network in self._networks)

    def _allow(self, entry: str) -> None:
        try:
            if "/" in entry:
                self._networks.append(ip_network(entry))
                return
            named = _ENTRY.fullmatch(entry)
            if named is None:
                raise ValueError(entry)
            host = str(IPv6Address(named["v6"])) if named["v6"] else _host(named["host"])
            port = None if named["port"] is None else int(named["port"])
            self._hosts |= {(host, port)} if port is not None else {(host, usual) for usual in _PORTS.values()}
        except ValueError:
            raise ConfigError(
                f"{entry!r} is neither a host, nor a host and its port, nor a network.",
                field="gateway.fetch_allow",
                hint='Write ["files.example.org", "minio.internal:9000", "10.1.0.0/16"].',
            ) from None


def public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the public Internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    return address in _OPEN_V6 and not any(address in network for network in _CLOSED_V6)


def joined(url: str, location: str) -> str:
    """Where a redirect from `url` leads. Raises `UrlNotAllowed` when it is no URL."""
    try:
        return urljoin(url, location.strip())
    except ValueError:
        raise UrlNotAllowed("The redirect does not lead to a valid URL.") from None


def _parsed(url: str) -> tuple[Place, str]:
    """The place of a URL, and its scheme."""
    if len(url) > _LONGEST_URL:
        raise UrlNotAllowed(f"The URL is longer than {_LONGEST_URL} characters.")
    try:
        parts = urlsplit(url)
        if (usual := _PORTS.get(parts.scheme)) is None:
            raise UrlNotAllowed("The URL must begin with https:// or http://.", hint="Or send the content as base64.")
        port = usual if parts.port is None else parts.port
        host = _host(parts.hostname or "")
    except ValueError:
        raise UrlNotAllowed("The URL is not valid.") from None
    if parts.username is not None or parts.password is not None:
        raise UrlNotAllowed("The URL must not carry a user's name or password.")
    target = quote(parts.path or "/", _KEPT) + (f"?{quote(parts.query, _KEPT)}" if parts.query else "")
    shown = f"[{host}]" if ":" in host else host
    at = "" if port == usual else f":{port}"
    return Place(f"{parts.scheme}://{shown}{at}{target}", host, port), parts.scheme


def _host(name: str) -> str:
    """A host in lower case and plain ASCII. Raises `ValueError` when it is none."""
    plain = name.encode("idna").decode("ascii").lower().removesuffix(".") if ":" not in name else str(IPv6Address(name))
    if not _HOST.fullmatch(plain):
        raise ValueError(name)
    return plain
