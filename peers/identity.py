"""Who one is to other peers: a long-lived certificate, known by its fingerprint.

docs/protocol.md §1 and §6.2. Nobody signs these certificates and no chain is ever checked: two
peers pin each other's fingerprint. So they say nothing about their holder and do not expire.
"""

import hashlib
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from .errors import FileUnusable, IdentityInvalid, UsageError, printable
from .private_file import read_private, write_private

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

FINGERPRINT_PREFIX = "sha256:"
MAX_FILE = 65536
"""Bytes of the largest identity file that is read; one of ours has about 500."""

_HEX_DIGITS = re.compile(r"[0-9a-f]{64}")
_BEFORE_ALL_CLOCKS = datetime(2020, 1, 1, tzinfo=UTC)
# RFC 5280 §4.1.2.5: the date for a certificate with no well-defined expiration.
_NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and the private key that goes with it: Ed25519, or ECDSA on P-256."""

    certificate: x509.Certificate
    private_key: PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> "Identity":
        """Make a new one, self-signed, with an Ed25519 key."""
        key = ed25519.Ed25519PrivateKey.generate()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "quicpipe peer")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEFORE_ALL_CLOCKS)
            .not_valid_after(_NEVER)
            .sign(key, None)
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, path: Path) -> "Identity":
        """Read certificate and private key from one PEM file.

        :raises IdentityInvalid: and says what is wrong with the file.
        """
        try:
            pem = read_private(path, limit=MAX_FILE)
        except FileUnusable as error:
            raise IdentityInvalid(str(error)) from None
        return cls(*_parse(pem, path))

    def save(self, path: Path, *, overwrite: bool = False, make_folder: bool = False) -> None:
        """Write both to one PEM file with mode 0600, atomically.

        :param make_folder: make the folders that are missing, with mode 0700.
        :raises FileUnusable: if the file exists and `overwrite` is not set, or cannot be written.
        """
        key = self.private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        pem = key + self.certificate.public_bytes(serialization.Encoding.PEM)
        write_private(path, pem, overwrite=overwrite, make_folder=make_folder)

    @property
    def certificate_der(self) -> bytes:
        """The certificate in DER: what the fingerprint is of."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def fingerprint(self) -> str:
        """`sha256:` and 64 lower-case hexadecimal digits: what the other peer pins."""
        return fingerprint_of(self.certificate_der)

    def sign(self, message: bytes) -> bytes:
        """Sign with the private key: Ed25519, or ECDSA with SHA-256 (DER).

        What the message begins with must say what it is for: TLS signs with this key, too.
        """
        if isinstance(self.private_key, ed25519.Ed25519PrivateKey):
            return self.private_key.sign(message)
        return self.private_key.sign(message, ec.ECDSA(SHA256()))


def _parse(pem: bytes, path: Path) -> tuple[x509.Certificate, PrivateKey]:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise IdentityInvalid(
            f"the private key in {path} is protected by a passphrase, which is not supported here"
        ) from None
    except Exception as error:
        # Besides ValueError and UnsupportedAlgorithm the library promises no list of errors.
        raise IdentityInvalid(
            f"{path} is no identity: it has no private key in PEM form ({_brief(error)}); expected"
            " what 'quicpipe identity' makes"
        ) from None
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certified = certificate.public_key()
    except Exception as error:
        raise IdentityInvalid(f"{path} has no certificate in PEM form: {_brief(error)}") from None
    match key:
        case ed25519.Ed25519PrivateKey():
            pass
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP256R1):
            pass
        case _:
            raise IdentityInvalid(f"the private key in {path} is neither Ed25519 nor ECDSA P-256")
    if certified != key.public_key():
        raise IdentityInvalid(f"the certificate in {path} belongs to another private key")
    return certificate, key


def _brief(error: Exception) -> str:
    return printable(str(error), 100) or type(error).__name__


def default_path() -> Path:
    """`$XDG_CONFIG_HOME/quicpipe/identity.pem`, or under `~/.config` if that is not set.

    :raises UsageError: if there is no home folder either.
    """
    # The XDG Base Directory Specification: relative paths in the variable are to be ignored.
    base = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        folder = Path(base) if os.path.isabs(base) else Path.home() / ".config"
    except RuntimeError:
        raise UsageError(
            "there is no home folder to keep an identity in: say where, with --identity FILE"
        ) from None
    return folder / "quicpipe" / "identity.pem"


def fingerprint_of(certificate_der: bytes) -> str:
    """The fingerprint of a certificate, given in DER."""
    return FINGERPRINT_PREFIX + hashlib.sha256(certificate_der).hexdigest()


def parse_fingerprint(text: str) -> str:
    """Bring a fingerprint to its one form; upper case, colons and a missing prefix are accepted.

    :raises IdentityInvalid: if it is none.
    """
    digits = text.strip().lower().removeprefix(FINGERPRINT_PREFIX).replace(":", "")
    if not _HEX_DIGITS.fullmatch(digits):
        raise IdentityInvalid(
            f"'{printable(text, 90)}' is not a fingerprint: expected 'sha256:' and 64 hexadecimal"
            f" digits, found {len(digits)} characters"
        )
    return FINGERPRINT_PREFIX + digits
