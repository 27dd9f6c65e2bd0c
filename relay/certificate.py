"""The certificate with which the relay proves who it is: the operator's own, or a self-signed one.

A self-signed one is made once and kept, because peers elsewhere remember its fingerprint.
"""

import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SELF_SIGNED_FILE = "self-signed.pem"
"""Private key and certificate in one file: so no start of the relay ever sees half of a pair."""

_VALIDITY = timedelta(days=3652)
"""Ten years. Who trusts a self-signed certificate compares its fingerprint, not its dates."""

_MIN_RSA_BITS = 2048
"""Smaller keys are refused by TLS clients."""

_MAX_CHAIN = 12_000
"""Bytes of DER; QUIC must send the chain in the handshake, within three packets of its start."""

_KEYS_TAKEN = f"an ECDSA P-256 or P-384 key, or RSA of at least {_MIN_RSA_BITS} bits"

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")

ServerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class CertificateError(Exception):
    """The certificate or its key cannot be used; the text is one line for the operator."""


@dataclass(frozen=True)
class ServerCertificate:
    """A certificate chain, the server's own first, and its private key."""

    chain: tuple[x509.Certificate, ...]
    private_key: ServerKey

    @property
    def fingerprint(self) -> str:
        """`sha256:` and 64 lower-case hexadecimal digits: SHA-256 of the server's own (DER)."""
        der = self.chain[0].public_bytes(serialization.Encoding.DER)
        return f"sha256:{sha256(der).hexdigest()}"

    @property
    def not_after(self) -> datetime:
        """When it ends (UTC), for whoever warns of it."""
        return self.chain[0].not_valid_after_utc

    @property
    def is_self_signed(self) -> bool:
        """Whether no authority stands behind it: peers must be told its fingerprint."""
        return self.chain[0].issuer == self.chain[0].subject

    @classmethod
    def load(cls, certificate: Path, private_key: Path) -> "ServerCertificate":
        """Read a PEM chain and its PEM key; both may be in one file.

        :raises CertificateError: for each mistake that can be seen here, in one line.
        """
        chain = _parse_chain(_read(certificate), certificate)
        _check_size(chain, certificate)
        key = _parse_key(_read(private_key), private_key)
        _check_match(chain, key, certificate, private_key)
        return cls(chain, key)

    @classmethod
    def self_signed(
        cls, state_directory: Path, host_name: str | None = None
    ) -> "ServerCertificate":
        """Read the one kept in `state_directory`, or make it: ECDSA P-256, for ten years.

        It names localhost, 127.0.0.1, ::1 and `host_name` (default: this machine's). Several
        starts at once agree on one certificate.

        :raises CertificateError: if it can be neither read nor kept.
        """
        kept = state_directory / SELF_SIGNED_FILE
        if not kept.exists():
            _keep(_make(socket.gethostname() if host_name is None else host_name), kept)
        try:
            return cls.load(kept, kept)
        except CertificateError as error:
            raise CertificateError(f"{error}; remove {kept} to have a new one made") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CertificateError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror}") from None


def _parse_chain(pem: bytes, path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise CertificateError(
            f"{path}: holds no certificate that can be read; expected PEM, which begins with "
            "-----BEGIN CERTIFICATE-----"
        ) from None


def _check_size(chain: Sequence[x509.Certificate], path: Path) -> None:
    size = sum(len(each.public_bytes(serialization.Encoding.DER)) for each in chain)
    if size > _MAX_CHAIN:
        raise CertificateError(
            f"{path}: this chain of {len(chain)} certificates is too long, {size} bytes; expected "
            f"at most {_MAX_CHAIN}: the server's own and its intermediates"
        )


def _parse_key(pem: bytes, path: Path) -> ServerKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise CertificateError(
            f"{path}: the private key is encrypted, and the relay cannot ask for its passphrase"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(
            f"{path}: holds no private key that can be read; expected PEM, which begins with "
            "-----BEGIN PRIVATE KEY-----"
        ) from None
    match key:
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return key
        case rsa.RSAPrivateKey() if key.key_size >= _MIN_RSA_BITS:
            return key
    raise CertificateError(
        f"{path}: {_describe(key)}; HTTP/3 clients refuse it: expected {_KEYS_TAKEN}"
    )


def _describe(key: object) -> str:
    match key:
        case ec.EllipticCurvePrivateKey():
            return f"this is an ECDSA key on the curve {key.curve.name}"
        case rsa.RSAPrivateKey():
            return f"this RSA key has {key.key_size} bits"
    name = type(key).__name__.removesuffix("PrivateKey").lstrip("_")
    return f"this is a key of the kind {name}"


def _check_match(
    chain: Sequence[x509.Certificate], key: ServerKey, certificate: Path, private_key: Path
) -> None:
    wanted = key.public_key()
    keys: list[object] = []
    for each in chain:
        try:
            keys.append(each.public_key())
        except (ValueError, UnsupportedAlgorithm):
            keys.append(None)
    if keys[0] == wanted:
        return
    if wanted in keys:
        raise CertificateError(
            f"{certificate}: the private key belongs to certificate number "
            f"{keys.index(wanted) + 1}; the server's own must be the first"
        )
    raise CertificateError(f"{private_key}: this private key does not belong to {certificate}")


def _make(host_name: str) -> bytes:
    """A new private key and its certificate, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quicpipe-relay")])
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    if host_name != "localhost" and _HOST_NAME.fullmatch(host_name):
        names.append(x509.DNSName(host_name))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # for clocks that are behind
        .not_valid_after(now + _VALIDITY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def _keep(pem: bytes, path: Path) -> None:
    """Write `path` whole or not at all, mode 0600. Whoever was first stays."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            _link_unless_there(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise CertificateError(
            f"{path}: the relay's certificate cannot be kept here: {error.strerror}"
        ) from None


def _link_unless_there(unfinished: Path, path: Path) -> None:
    try:
        os.link(unfinished, path)  # unlike a rename, it never replaces
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links: two first starts at once may then differ
        if not path.exists():
            unfinished.rename(path)
