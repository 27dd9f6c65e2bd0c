"""Which relay is this? Decides on the certificate that a relay shows.

TLS proves that the relay holds the certificate's private key; whether that certificate is a reason
to trust it is decided here, by the first of these that applies:

1. A fingerprint was given (by the user, or by the invite): this certificate and no other.
2. The chain leads to one of the system's root certificates and names the host that was asked for.
3. The relay is on a loopback address and its certificate is self-signed: it is on this machine.
"""

import ipaddress
import ssl
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from relay.wire.address import Address

from .errors import RelayUntrusted, printable
from .identity import fingerprint_of, parse_fingerprint
from .token import TokenSource

_PEM_END = b"-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class RelayTrust:
    """What makes a relay trustworthy. Without arguments: system roots, or self-signed on loopback.

    :raises IdentityInvalid: if `fingerprint` is none.
    """

    fingerprint: str | None = None
    """Trust this certificate and no other, whatever it says. `parse_fingerprint` reads it."""
    roots: Path | None = None
    """Root certificates, one PEM file; None: the system's."""
    token: TokenSource | None = field(default=None, repr=False, compare=False)
    """What to show to the relay once it is trusted: it may let in nobody else."""

    def __post_init__(self) -> None:
        if self.fingerprint is not None:
            object.__setattr__(self, "fingerprint", parse_fingerprint(self.fingerprint))

    def check(self, chain: list[bytes], host: str, address: Address, now: datetime) -> None:
        """Decide on the relay at `address`, which was asked for as `host`.

        :param chain: certificates in DER, the relay's own first, as TLS brought them.
        :param now: the time, with its zone; certificates have dates.
        :raises RelayUntrusted: with the fingerprint, and which option would accept it.
        """
        where = f"the relay {printable(host, 100)} ({address})"
        if not chain:
            raise RelayUntrusted(f"{where} showed no certificate")
        shown = fingerprint_of(chain[0])
        if self.fingerprint is not None:
            if shown != self.fingerprint:
                raise RelayUntrusted(
                    f"{where} is not the one expected: its certificate is {shown}, expected"
                    f" {self.fingerprint}; compare with what the relay prints at its start: unless"
                    " it has a new one, somebody else answers in its place",
                    shown,
                )
            return
        reason = self._doubt(chain, host, now)
        self_signed = _is_self_signed(chain[0])
        if reason is None or (self_signed and _is_loopback(address)):
            return
        if self_signed:
            reason = "its certificate is self-signed"
        raise RelayUntrusted(
            f"{where} cannot be trusted: {reason}; compare with what the relay prints at its start,"
            f" and if it is the same give --relay-fingerprint {shown}",
            shown,
        )

    def _doubt(self, chain: list[bytes], host: str, now: datetime) -> str | None:
        """Why the system's roots do not vouch for this chain; None if they do."""
        try:
            leaf, *others = (x509.load_der_x509_certificate(each) for each in chain)
            subject = _subject(host)
            store = _load_roots(self.roots)
            verifier = PolicyBuilder().store(store).time(now).build_server_verifier(subject)
            verifier.verify(leaf, others)
        except VerificationError as error:
            return f"no root certificate of this system vouches for it ({_brief(error)})"
        except (ValueError, UnsupportedAlgorithm) as error:
            return f"its certificate cannot be checked ({_brief(error)})"
        return None


def _subject(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        # A zone (`fe80::1%eth0`) is no part of what a certificate names.
        return x509.IPAddress(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        name = host.rstrip(".")
        return x509.DNSName(name if name.isascii() else name.encode("idna").decode())


def _brief(error: Exception) -> str:
    text = str(error).partition(" (encountered processing")[0].removeprefix("validation failed: ")
    return printable(text, 150) or type(error).__name__


def _is_loopback(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_self_signed(der: bytes) -> bool:
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


@lru_cache(maxsize=4)
def _load_roots(path: Path | None) -> Store:
    """Read root certificates once; those that the library does not take are passed over.

    :raises ValueError: if there is none at all.
    """
    sources = [path] if path is not None else _system_files()
    for source in sources:
        try:
            pem = source.read_bytes()
        except OSError:
            continue
        if roots := _certificates(pem):
            return Store(roots)
    raise ValueError(f"no root certificates in {' or '.join(map(str, sources))}")


def _system_files() -> list[Path]:
    paths = ssl.get_default_verify_paths()
    return [Path(each) for each in (paths.cafile, certifi.where()) if each]


def _certificates(pem: bytes) -> list[x509.Certificate]:
    found = []
    for block in pem.split(_PEM_END)[:-1]:
        with warnings.catch_warnings():
            # Some roots break a rule that the library will enforce one day: then it passes them.
            warnings.simplefilter("ignore")
            try:
                certificate = x509.load_pem_x509_certificate(block + _PEM_END)
                certificate.public_bytes(serialization.Encoding.DER)
            except (ValueError, UnsupportedAlgorithm):
                continue
        found.append(certificate)
    return found
