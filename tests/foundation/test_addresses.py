"""The guard against requests into our own network, over the whole space of addresses and all ways to write one."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimle.foundation.addresses import Guard, joined, public
from gimle.foundation.errors import ConfigError, UrlNotAllowed

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)
GUARD = Guard()


def allowed(guard: Guard, url: str, *addresses: str) -> bool:
    try:
        guard.check(guard.place(url), addresses)
    except UrlNotAllowed:
        return False
    return True


@given(st.one_of(V4, V6))
def test_what_is_public_is_so_in_everybodys_eyes(address: IPv4Address | IPv6Address) -> None:
    if public(address):
        assert address.is_global
        closed = ("private", "multicast", "reserved", "loopback", "link_local", "unspecified")
        assert not [kind for kind in closed if getattr(address, f"is_{kind}")]


@given(V4)
def test_an_address_inside_another_never_passes(address: IPv4Address) -> None:
    number = int(address)
    mapped = IPv6Address((0xFFFF << 32) | number)
    compatible = IPv6Address(number)
    translated = IPv6Address((0x0064FF9B << 96) | number)
    local_translated = IPv6Address((0x0064FF9B0001 << 80) | number)
    six_to_four = IPv6Address((0x2002 << 112) | (number << 80))
    teredo = IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF))
    for each in (mapped, compatible, translated, local_translated, six_to_four, teredo):
        assert not public(each)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
        "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "198.18.0.1", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fec0::1", "ff02::1", "2002:7f00:1::", "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1", "2001:db8::1", "2001::1", "100::1", "no address", "",
    ],
)  # fmt: skip
def test_no_name_leads_there(address: str) -> None:
    assert not allowed(GUARD, "http://pictures.example/a.png", address)
    assert not allowed(GUARD, "http://pictures.example/a.png", "93.184.215.14", address)


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1"])
def test_the_public_internet_is_open(address: str) -> None:
    assert public(ip_address(address))
    assert allowed(GUARD, "https://pictures.example/a.png", address)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://a.example/x", "ftp://a.example:80/x", "gopher://a.example/", "//a.example/x",
        "data:image/png;base64,AAAA", "a.png", "", "http://", "http:///x", "https://a.example:22/",
        "http://a.example:99999/", "http://a.example:x/",
        "http://user@a.example/", "http://user:word@a.example/", "http://a..example/", "http://a b.example/",
        "http://[::1", "http://[fe80::1%25eth0]/", "http://a.example\\@b.example/", "http://-a/", "http://a.example%2f/",
        "http://" + "a" * 64 + ".example/", "http://a.example/" + "a" * 9000, "javascript:alert(1)", "http://\x00/",
    ],
)  # fmt: skip
def test_that_is_no_place(url: str) -> None:
    with pytest.raises(UrlNotAllowed):
        GUARD.place(url)


@given(st.text() | st.text().map("http://".__add__) | st.text().map("https://a.example/".__add__))
def test_any_text_is_a_place_in_plain_ascii_or_none(text: str) -> None:
    try:
        place = GUARD.place(text)
    except UrlNotAllowed:
        return
    assert place.url.isascii()
    assert place.url.isprintable()
    assert " " not in place.url
    assert place.url.startswith(("http://", "https://"))
    assert GUARD.place(place.url) == place


def test_a_place_is_written_in_one_way() -> None:
    place = GUARD.place("HTTPS://Bücher.Example.:443/Größe a?q=ä&x=%2F#part")
    assert place.url == "https://xn--bcher-kva.example/Gr%C3%B6%C3%9Fe%20a?q=%C3%A4&x=%2F"
    assert (place.host, place.port) == ("xn--bcher-kva.example", 443)
    assert GUARD.place("http://a.example").url == "http://a.example/"
    assert GUARD.place("http://[2606:4700::1111]/").url == "http://[2606:4700::1111]/"


def test_a_host_that_is_allowed_may_lead_anywhere_and_no_other() -> None:
    guard = Guard(["Files.Example", "minio.internal:9000", "10.0.0.5:81", "[fd00::5]:82"])
    assert allowed(guard, "http://files.example/a", "10.1.2.3")
    assert allowed(guard, "https://FILES.example./a", "127.0.0.1")
    assert not allowed(guard, "http://files.example:9000/a", "10.1.2.3")
    assert allowed(guard, "http://minio.internal:9000/a", "10.1.2.3")
    assert not allowed(guard, "http://minio.internal/a", "10.1.2.3")
    assert not allowed(guard, "http://sub.files.example/a", "10.1.2.3")
    assert allowed(guard, "http://10.0.0.5:81/a", "10.0.0.5")
    assert allowed(guard, "http://[fd00::5]:82/a", "fd00::5")


def test_a_network_that_is_allowed_holds_all_names_that_lead_there() -> None:
    guard = Guard(["10.1.0.0/16", "fd00:1::/32"])
    assert allowed(guard, "http://any.example/", "10.1.200.3", "fd00:1::5")
    assert not allowed(guard, "http://any.example/", "10.1.200.3", "10.2.0.1")
    assert not allowed(guard, "http://any.example:9000/", "10.1.200.3")


@pytest.mark.parametrize("entry", ["", "10.0.0.1/8", "http://a.example", "a b", "a:b", "[::1", "[x]:80", "10.0.0.0/33"])
def test_an_entry_that_means_nothing_stops_the_start(entry: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        Guard([entry])
    assert wrong.value.field == "gateway.fetch_allow"


def test_where_a_redirect_leads() -> None:
    assert joined("https://a.example/x/y?z", "../w") == "https://a.example/w"
    assert joined("https://a.example/x", "//b.example/w") == "https://b.example/w"
    with pytest.raises(UrlNotAllowed):
        joined("https://a.example/", "http://[::1")
