import pytest
from yarl import URL

from agentos.infra.tools.allowlist import Allowlist, is_address_allowed


@pytest.mark.parametrize(
    ("pattern", "url", "allowed"),
    [
        ("example.com", "https://example.com/a", True),
        ("example.com", "http://EXAMPLE.com./a", True),
        ("example.com", "https://example.com:8443/", False),
        ("example.com", "https://example.com.evil.org/", False),
        ("example.com", "https://notexample.com/", False),
        ("example.com", "https://a.example.com/", False),
        ("*.example.com", "https://a.b.example.com/", True),
        ("*.example.com", "https://example.com/", False),
        ("example.com:8080", "http://example.com:8080/", True),
        ("example.com:8080", "http://example.com/", False),
        ("127.0.0.1:*", "http://127.0.0.1:5000/", True),
        ("[::1]:*", "http://[::1]:5000/", True),
        ("[::1]:80", "http://[::1]/", True),
        ("*", "http://anything/", True),
        ("*", "http://anything:22/", False),
        ("exa.ple.com", "http://exampleXcom/", False),
        ("xn--bcher-kva.example", "http://bücher.example/", True),
    ],
)
def test_patterns(pattern: str, url: str, allowed: bool) -> None:
    assert Allowlist([pattern]).allows(URL(url)) is allowed


def test_an_empty_list_allows_nothing() -> None:
    assert not Allowlist([]).allows(URL("http://example.com/"))


@pytest.mark.parametrize("pattern", ["", "http://x", "a b", "x:y", "x/", "u@x", "::1"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="host"):
        Allowlist([pattern])


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1::1", True, True),
        ("127.0.0.1", False, True),
        ("127.9.9.9", False, True),
        ("10.0.0.1", False, True),
        ("172.16.0.1", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("::1", False, True),
        ("fd12::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("::ffff:93.184.216.34", True, True),
        ("64:ff9b::7f00:1", False, True),
        ("2002:7f00:1::", False, True),
        ("::127.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("fe80::1%eth0", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("168.63.129.16", False, False),
        ("0.0.0.0", False, False),  # noqa: S104 - judged, not bound
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
    ],
)
def test_addresses(address: str, public: bool, private: bool) -> None:
    assert is_address_allowed(address, allow_private=False) is public
    assert is_address_allowed(address, allow_private=True) is private
