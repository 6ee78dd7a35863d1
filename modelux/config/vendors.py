"""Vendors and presets: whose protocol a provider speaks, where it is, and its quirks.

Also what a `base_url` may be. A provider from the file may use loopback and private addresses;
link-local and metadata addresses are refused always, because a gateway that can be pointed at
`169.254.169.254` hands out its machine's identity. Names are checked again at each connect, by
whoever resolves them.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from modelux.config.model import Origin

_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")
_NUMERIC: Final = re.compile(r"\d+|0[xX][0-9a-fA-F]*")
_METADATA_NAMES: Final = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.goog",
        "metadata.google.internal",
    }
)
# Not all of them are link-local: AWS over IPv6, Alibaba, Oracle, Azure's wire server.
_METADATA_ADDRESSES: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """What a vendor's or preset's name stands for."""

    base_url: str | None
    """Its own address, as its SDK takes it; None: the file has to say it."""
    on_cancel: str = "bills_all"
    version_path: str = ""
    """What follows the base URL where the SDK's has no version in it."""
    prefixes: tuple[str, ...] = ()
    """Names of models that begin so are its own."""
    is_open: bool = False
    """Whether any model may be there, so that no catalogue can call one unknown."""
    is_free: bool = False


VENDORS: Final[Mapping[str, Vendor]] = {
    "openai": Vendor(
        base_url="https://api.openai.com/v1",
        on_cancel="bills_generated",
        prefixes=("gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-"),
    ),
    "anthropic": Vendor(
        base_url="https://api.anthropic.com",
        on_cancel="bills_generated",
        version_path="/v1",
        prefixes=("claude-",),
    ),
    "google": Vendor(
        base_url="https://generativelanguage.googleapis.com",
        on_cancel="bills_generated",
        version_path="/v1beta/openai",
        prefixes=("gemini-",),
    ),
    "openai_compatible": Vendor(base_url=None, is_open=True),
    "ollama": Vendor(
        base_url="http://127.0.0.1:11434/v1",
        on_cancel="bills_generated",
        is_open=True,
        is_free=True,
    ),
    "vllm": Vendor(
        base_url="http://127.0.0.1:8000/v1", on_cancel="bills_generated", is_open=True
    ),
    "mistral": Vendor(base_url="https://api.mistral.ai/v1"),
    "groq": Vendor(base_url="https://api.groq.com/openai/v1"),
    "deepseek": Vendor(base_url="https://api.deepseek.com/v1"),
    "together": Vendor(base_url="https://api.together.xyz/v1", is_open=True),
    "fireworks": Vendor(base_url="https://api.fireworks.ai/inference/v1", is_open=True),
    "xai": Vendor(base_url="https://api.x.ai/v1"),
    "openrouter": Vendor(base_url="https://openrouter.ai/api/v1", is_open=True),
    "cerebras": Vendor(base_url="https://api.cerebras.ai/v1"),
}

# A version that people carry over from another SDK's base URL.
_VERSION_TAILS: Final = ("/v1beta/openai", "/v1beta", "/v1")


def vendor_by_prefix(model: str) -> str | None:
    """Return the vendor whose models are named so, by the public prefix rule."""
    for name, vendor in VENDORS.items():
        if model.startswith(vendor.prefixes):
            return name
    return None


def recognised_prefixes() -> str:
    """Return the prefix rule for people."""
    return ", ".join(
        f"{prefix}* ({name})" for name, vendor in VENDORS.items() for prefix in vendor.prefixes
    )


def parse_base_url(text: str, vendor: Vendor) -> Origin:
    """Read a `base_url` as the vendor's own SDK takes it.

    Raises:
        ValueError: It cannot be used; the message has the fix, and never a password in it.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL, as https://api.example.com/v1") from None
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a password; the key goes to `api_key`")
    if parts.scheme not in {"http", "https"} or not text.isascii() or "\\" in text:
        raise ValueError("is not an http:// or https:// URL, as https://api.example.com/v1")
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise ValueError("must not hold a query (`?`) or a fragment (`#`)")
    host = _host(parts.hostname or "")
    if port == 0:
        raise ValueError("port 0 is nowhere")
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("its path may hold only plain segments, as /v1")
    if vendor.version_path:
        for tail in _VERSION_TAILS:
            if path.endswith(tail):
                path = path.removesuffix(tail)
                break
        path += vendor.version_path
    usual = {"http": 80, "https": 443}[parts.scheme]
    return Origin(scheme=parts.scheme, host=host, port=port or usual, base_path=path)


def _host(host: str) -> str:
    host = host.lower()
    if ":" in host:
        try:
            address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("its host is not an IPv6 address") from None
        if "%" in host:
            raise ValueError("its host must not name a network interface")
        _refuse_address(address)
        return str(address)
    if not _HOST.fullmatch(host):
        raise ValueError("has no host that can be looked up")
    if _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # The resolver reads 2852039166 and 0x7f.1 as addresses; we read only one spelling.
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("its host is not an IPv4 address of four numbers") from None
        _refuse_address(address)
        return str(address)
    if host.rstrip(".") in _METADATA_NAMES:
        raise ValueError("must not point at a cloud's metadata service")
    return host


def _refuse_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    inner = _embedded(address)
    if inner is not None:
        _refuse_address(inner)
    if address in _METADATA_ADDRESSES:
        raise ValueError("must not point at a cloud's metadata service")
    if address.is_link_local:
        raise ValueError("must not be a link-local address: metadata services are there")
    if address.is_multicast or address.is_unspecified:
        raise ValueError("must be the address of one host")
    if isinstance(address, ipaddress.IPv4Address) and int(address) == 0xFFFFFFFF:
        raise ValueError("must be the address of one host")


def _embedded(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one stands for: mapped, 6to4 or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
