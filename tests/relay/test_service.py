"""The relay's start and end in this process, where a test can put something in a worker's place."""

import asyncio
import functools
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay import own_certificate
from relay.certificate import ServerCertificate
from relay.config import Config
from relay.forwarding.sockets import Listener, ListenRequest, open_listeners
from relay.forwarding.supervisor import PoolTimes, WorkerPool, WorkersFailed
from relay.lifecycle import parts
from relay.service import Relay
from relay.wire.address import Address
from tests.relay.http3_client import certificate

NEVER_READY = (sys.executable, "-c", "import time; time.sleep(60)")
ENDS_AT_ONCE = (sys.executable, "-c", "raise SystemExit(3)")


@pytest.fixture
def listeners() -> Iterator[Sequence[Listener]]:
    opened = open_listeners([ListenRequest(Address("127.0.0.1", 0))], 1)
    yield opened
    for each in opened:
        each.close()


def lines_about(caplog: pytest.LogCaptureFixture, which: ServerCertificate, at: datetime) -> str:
    caplog.clear()
    with caplog.at_level("INFO", "relay.own_certificate"):
        own_certificate.log_certificate(which, at)
    return "".join(f"{each.levelname}: {each.getMessage()}\n" for each in caplog.records)


def test_a_certificate_is_named_and_its_end_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    own = certificate()
    named = f"WARNING: certificate {own.fingerprint} (self-signed)\n"
    assert lines_about(caplog, own, own.not_after - timedelta(days=15)) == named
    soon = lines_about(caplog, own, own.not_after)
    assert soon.startswith(f"{named}WARNING: the certificate expires on {own.not_after.date()}: ")
    late = lines_about(caplog, own, own.not_after + timedelta(seconds=1))
    assert late.startswith(f"{named}WARNING: the certificate expired on {own.not_after.date()}, ")
    assert late.count("\n") == 2


def test_a_certificate_of_an_authority_is_named_quietly(caplog: pytest.LogCaptureFixture) -> None:
    issued = issued_certificate()
    said = lines_about(caplog, issued, issued.not_after - timedelta(days=15))
    assert said == f"INFO: certificate {issued.fingerprint}\n"


def issued_certificate() -> ServerCertificate:
    """By an authority that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, issuer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("relay", "issuer")
    )
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer, subject, key.public_key(), 1, now - timedelta(1), now + timedelta(1)
    )
    return ServerCertificate((builder.sign(key, hashes.SHA256()),), key)


def put_in_place(monkeypatch: pytest.MonkeyPatch, command: Sequence[str]) -> None:
    monkeypatch.setattr(parts, "WorkerPool", functools.partial(WorkerPool, command=command))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_ended_while_it_starts(
    monkeypatch: pytest.MonkeyPatch,
    listeners: Sequence[Listener],
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    put_in_place(monkeypatch, NEVER_READY)

    async def main() -> tuple[int, float]:
        signalled: list[float] = []

        def send_signal() -> None:
            signalled.append(time.monotonic())
            os.kill(os.getpid(), number)

        asyncio.get_running_loop().call_later(0.3, send_signal)  # by then it listens to signals
        code = await Relay(Config(), listeners, certificate()).serve()
        return code, time.monotonic() - signalled[0]

    code, seconds = asyncio.run(main())
    assert code == 0
    assert seconds < 2.0
    assert capsys.readouterr().out == ""  # it never said that it was ready


@pytest.mark.parametrize(
    ("command", "expected"),
    [(NEVER_READY, "did not start in time"), (ENDS_AT_ONCE, "ended before they forwarded")],
)
def test_workers_that_do_not_start(
    monkeypatch: pytest.MonkeyPatch,
    listeners: Sequence[Listener],
    command: Sequence[str],
    expected: str,
) -> None:
    put_in_place(monkeypatch, command)
    times = PoolTimes(start_patience_s=0.3 if command == NEVER_READY else 15.0)
    monkeypatch.setattr(parts, "pool_times", lambda config: times)

    async def main() -> None:
        await Relay(Config(), listeners, certificate()).serve()

    with pytest.raises(WorkersFailed, match=expected):
        asyncio.run(main())
