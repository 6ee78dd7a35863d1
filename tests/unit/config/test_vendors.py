"""Where a provider may point: the vendor's own address, loopback, private; never metadata."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelux.config.model import Origin
from modelux.config.vendors import (
    VENDORS,
    parse_base_url,
    recognised_prefixes,
    vendor_by_prefix,
)

OPENAI = VENDORS["openai"]


@pytest.mark.parametrize(
    ("vendor", "text", "origin"),
    [
        ("openai", "https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("openai", "http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("openai", "HTTP://LocalHost:8000", "http://localhost:8000"),
        ("openai", "http://[::1]:9/v1", "http://[::1]:9/v1"),
        ("openai", "http://10.1.2.3", "http://10.1.2.3"),
        ("openai", "https://example.com:443/a/b", "https://example.com/a/b"),
        ("anthropic", "https://api.anthropic.com", "https://api.anthropic.com/v1"),
        ("anthropic", "https://api.anthropic.com/v1", "https://api.anthropic.com/v1"),
        ("anthropic", "https://proxy/anthropic/v1/", "https://proxy/anthropic/v1"),
        ("google", "https://g.example", "https://g.example/v1beta/openai"),
        ("google", "https://g.example/v1beta", "https://g.example/v1beta/openai"),
        ("google", "https://g.example/v1beta/openai/", "https://g.example/v1beta/openai"),
    ],
)
def test_a_base_url_is_what_the_vendors_sdk_takes(vendor: str, text: str, origin: str) -> None:
    assert str(parse_base_url(text, VENDORS[vendor])) == origin


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
        "metadata",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
        "[ff02::1]",
        "255.255.255.255",
    ],
)
def test_metadata_and_link_local_addresses_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"^must"):
        parse_base_url(f"http://{host}/v1", OPENAI)


@pytest.mark.parametrize(
    "host",
    ["2852039166", "0xa9fea9fe", "169.16689662", "0251.0376.0251.0376", "0x7f.1", "1.2.3"],
)
def test_other_spellings_of_an_address_are_refused(host: str) -> None:
    """The resolver would read them as an address that nobody has looked at."""
    with pytest.raises(ValueError, match="its host is not an IPv4 address of four numbers"):
        parse_base_url(f"http://{host}/v1", OPENAI)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://example.com", "is not an http:// or https:// URL"),
        ("example.com/v1", "is not an http:// or https:// URL"),
        ("https://user:hunter2@example.com/v1", "must not hold a user or a password"),
        ("https://hunter2@example.com/v1", "must not hold a user or a password"),
        ("https://example.com/v1?key=hunter2", "must not hold a query"),
        ("https://example.com/v1?", "must not hold a query"),
        ("https://example.com/v1#x", "must not hold a query"),
        ("https:///v1", "has no host"),
        ("https://exa mple.com", "has no host"),
        ("https://-x.com", "has no host"),
        ("https://a..b", "has no host"),
        ("https://example.com:0/v1", "port 0 is nowhere"),
        ("https://example.com:99999/v1", "is not a URL"),
        ("https://example.com/a b", "its path may hold only plain segments"),
        ("https://example.com/a/../b", "its path may hold only plain segments"),
        ("https://example.com//v1", "its path may hold only plain segments"),
        ("https://example.com/%2e%2e", "its path may hold only plain segments"),
        ("https://example.com\\@evil.com", "must not hold a user|is not an http"),
        ("http://[fe80::1%25eth0]/", "is not a|host"),
    ],
)
def test_what_cannot_be_called_is_refused_and_no_password_is_shown(
    text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        parse_base_url(text, OPENAI)

    assert "hunter2" not in str(failure.value)


@given(text=st.text(st.sampled_from("htps:/@[]%.0129afx?#\\ -é"), max_size=40))
def test_any_text_is_an_origin_or_refused(text: str) -> None:
    try:
        origin = parse_base_url(text, OPENAI)
    except ValueError:
        return
    assert origin == parse_base_url(str(origin), OPENAI)
    assert isinstance(origin, Origin)


@pytest.mark.parametrize(
    ("model", "vendor"),
    [
        ("gpt-4o-mini", "openai"),
        ("o3-mini", "openai"),
        ("text-embedding-3-small", "openai"),
        ("claude-haiku-4-5", "anthropic"),
        ("gemini-2.5-flash", "google"),
        ("llama-3.3-70b", None),
        ("", None),
    ],
)
def test_a_models_prefix_names_its_vendor(model: str, vendor: str | None) -> None:
    assert vendor_by_prefix(model) == vendor


def test_the_prefixes_are_told_with_their_vendor() -> None:
    assert "claude-* (anthropic)" in recognised_prefixes()
