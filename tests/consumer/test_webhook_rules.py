"""The rules of webhooks without a network: addresses, pauses, messages."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from receivers import ENVIRONMENT, SECRET, hook
from standardwebhooks import Webhook

from tailrace import Status
from tailrace.consumer.ended import Notice
from tailrace.consumer.webhooks import AddressRefused, is_public, message_of
from tailrace.consumer.webhooks.address import PublicOnly
from tailrace.consumer.webhooks.message import Signer, pause_s, retry_after_s
from tailrace.schemas import WebhookSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *("192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1", "fec0::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::"),
        *("2002:a00:1::1", "2001:0:4136:e378:8000:63bf:80ff:fffe", "", "example.com", "127.1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_is_no_other(address: IPv4Address) -> None:
    public = is_public(str(address))
    assert is_public(f"::ffff:{address}") == public
    assert is_public(str(IPv6Address((0x64FF9B << 96) | int(address)))) == public


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_an_address_inside_a_tunnel_is_never_public(address: IPv4Address, server: IPv4Address) -> None:
    assert not is_public(str(IPv6Address((0x2002 << 112) | (int(address) << 80))))
    assert not is_public(str(IPv6Address((0x20010000 << 96) | (int(server) << 64) | (int(address) ^ 0xFFFFFFFF))))


@given(st.ip_addresses())
def test_what_is_private_is_never_public(address: IPv4Address | IPv6Address) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        assert not is_public(str(address)) or inner is not None


async def test_what_is_connected_to_is_what_was_checked_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name is asked for once, and the connection goes to an address, not to the name."""
    asked: list[str] = []
    connected: list[str] = []
    answers = [["93.184.216.34", "10.0.0.1", "::1", "2606:4700:4700::1111"], ["127.0.0.1"]]

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    class Inner(httpcore2.AsyncNetworkBackend):
        async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
            connected.append(host)
            raise httpcore2.ConnectError("nobody there")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    pool = httpcore2.AsyncConnectionPool(network_backend=PublicOnly(Inner()))
    async with pool:
        with pytest.raises(httpcore2.ConnectError, match="nobody"):
            await pool.request("POST", "https://rebinding.example/hook", content=b"{}")
        assert asked == ["rebinding.example"]
        assert connected == ["93.184.216.34", "2606:4700:4700::1111"]
        with pytest.raises(AddressRefused):
            await pool.request("POST", "https://rebinding.example/hook", content=b"{}")
        assert len(connected) == 2


def settings(**fields: Any) -> WebhookSettings:
    return WebhookSettings.model_validate(hook(**{"url": "https://example.com/hook", **fields}))


@given(st.integers(1, 1000), st.floats(0, 1), st.none() | st.floats(0, 1e9), st.floats(0.01, 10), st.floats(10, 1e5))
def test_a_pause_grows_and_has_its_bounds(
    attempt: int, chance: float, asked: float | None, first: float, longest: float
) -> None:
    target = settings(first_pause_s=first, longest_pause_s=longest)
    pause = pause_s(target, attempt, chance=chance, retry_after_s=asked)
    assert 0 < pause <= longest
    assert pause >= min(0.75 * first, longest)
    assert pause >= min(asked or 0, longest)
    if chance < 1:
        assert pause <= max(1.25 * first * 4.0 ** min(attempt - 1, 100), asked or 0)
    assert pause_s(target, attempt + 1, chance=chance) >= pause_s(target, attempt, chance=chance)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None), ("0", 0.0), (" 120 ", 120.0), ("-1", None), ("1.5", None), ("soon", None), ("", None), ("٣", None),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
    ],
)  # fmt: skip
def test_what_a_retry_after_asks_for(value: str | None, expected: float | None) -> None:
    assert retry_after_s(value, NOW) == expected


@given(st.text())
def test_no_retry_after_breaks_anything(value: str) -> None:
    asked = retry_after_s(value, NOW)
    assert asked is None or asked >= 0


def notice(job_id: str = "job", incarnation: str = "i") -> Notice:
    return Notice(job_id, Status.COMPLETED, "index", ("é",), NOW, incarnation, None)


def test_a_message_is_the_same_for_one_job_and_receiver_and_no_other() -> None:
    one = message_of("n", "billing", notice())
    assert message_of("n", "billing", notice()) == one
    others = [
        message_of("n", "billing", notice(incarnation="j")),
        message_of("n", "billing", notice("job2")),
        message_of("n", "crm", notice()),
        message_of("m", "billing", notice()),
    ]
    assert len({one.id, *(other.id for other in others)}) == 5


def test_the_signature_is_that_of_the_specification_whatever_the_zone() -> None:
    message = message_of("n", "billing", notice())
    signer = Signer.of("billing", settings(), ENVIRONMENT)
    now = datetime.now(UTC)
    headers = signer.headers(message, now)
    assert Webhook(SECRET).verify(message.body, headers)["data"]["tags"] == ["é"]
    assert signer.headers(message, now.astimezone()) == headers
    assert SECRET[6:] not in repr(signer)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "http://example.com/", "allow_private": False}, "https"),
        ({"url": "ftp://example.com/"}, "https"),
        ({"url": "https:///path"}, "host"),
        ({"url": "https://user:canary@example.com/"}, "user"),
        ({"url": "https://example.com/#x"}, "fragment"),
        ({"url": "https://example.com/ x"}, "ASCII"),
        ({"url": "https://example.com:99999/"}, "none"),
        ({"url": "https://exämple.com/"}, "ASCII"),
        ({"statuses": ["queued"]}, "ends"),
        ({"secret": "whsec_canary"}, "Extra"),
        ({"secret_env": ""}, "at least 1"),
    ],
)
def test_a_receiver_that_can_be_none_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(**fields)
