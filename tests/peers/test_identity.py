"""Identities: made, kept, read, and refused; fingerprints in every spelling."""

import contextlib
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from peers.errors import FileUnusable, IdentityInvalid, UsageError
from peers.identity import Identity, default_path, fingerprint_of, parse_fingerprint

HEX = "0123456789abcdef" * 4
FINGERPRINT = "sha256:" + HEX


def pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[bytes, bytes]:
    """A self-signed certificate with that key, and the key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write(path: Path, content: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(content)
    return path


def test_a_new_one_is_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "identity.pem"
    identity = Identity.generate()
    with pytest.raises(FileUnusable, match=r"there is no folder .*new/folder; make it first"):
        identity.save(path)
    assert not list(tmp_path.iterdir())
    identity.save(path, make_folder=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["identity.pem"]
    again = Identity.load(path)
    assert again.fingerprint == identity.fingerprint
    assert again.certificate == identity.certificate
    assert parse_fingerprint(identity.fingerprint) == identity.fingerprint
    assert Identity.generate().fingerprint != identity.fingerprint


def test_it_is_self_signed_and_names_nobody() -> None:
    certificate = Identity.generate().certificate
    certificate.verify_directly_issued_by(certificate)
    assert certificate.subject.rfc4514_string() == "CN=quicpipe peer"


def test_it_is_never_overwritten_silently(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    first = Identity.generate()
    first.save(path)
    with pytest.raises(FileUnusable, match="exists already"):
        Identity.generate().save(path)
    assert Identity.load(path).fingerprint == first.fingerprint
    second = Identity.generate()
    second.save(path, overwrite=True)
    assert Identity.load(path).fingerprint == second.fingerprint
    assert [each.name for each in tmp_path.iterdir()] == ["identity.pem"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileUnusable, match="cannot write"):
        Identity.generate().save(tmp_path / "file" / "identity.pem")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileUnusable, match="cannot write"):
        Identity.generate().save(tmp_path / "folder", overwrite=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_a_p256_one_made_elsewhere_is_taken(tmp_path: Path) -> None:
    certificate, key = pem_of(ec.generate_private_key(ec.SECP256R1()))
    for content in (certificate + key, key + certificate, b"notes\n" + key + b"\n" + certificate):
        path = write(tmp_path / "identity.pem", content)
        der = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)
        assert Identity.load(path).fingerprint == fingerprint_of(der)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    certificate, key = pem_of(ec.generate_private_key(ec.SECP256R1()))
    other_certificate, _ = pem_of(ec.generate_private_key(ec.SECP256R1()))
    rsa_certificate, rsa_key = pem_of(rsa.generate_private_key(65537, 2048))
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    for content, said in (
        (b"", "no private key"),
        (b"\x00\xff" * 50, "no private key"),
        (certificate, "no private key"),
        (key, "no certificate"),
        (key + certificate[:100], "no certificate"),
        (key[:60] + b"!" + key[60:] + certificate, "no private key"),
        (key + other_certificate, "belongs to another private key"),
        (rsa_certificate + rsa_key, "neither Ed25519 nor ECDSA P-256"),
        (locked + certificate, "passphrase"),
        (b"x" * 70000, "longer than"),
    ):
        with pytest.raises(IdentityInvalid, match=said) as caught:
            Identity.load(write(tmp_path / "identity.pem", content))
        assert str(caught.value).isprintable()
    with pytest.raises(IdentityInvalid, match="cannot read"):
        Identity.load(tmp_path / "missing.pem")


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    Identity.generate().save(path)
    path.chmod(0o644)
    with pytest.raises(IdentityInvalid, match=r"can be read by others \(mode 0644\)"):
        Identity.load(path)


@given(st.binary(max_size=200))
def test_any_file_gives_an_identity_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.pem", b"-----BEGIN PRIVATE KEY" + content)
    with pytest.raises(IdentityInvalid):
        Identity.load(path)


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_path() == tmp_path / "quicpipe" / "identity.pem"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_CONFIG_HOME", unusable)
        assert default_path() == tmp_path / "home" / ".config" / "quicpipe" / "identity.pem"


def test_no_home_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UsageError, match="--identity FILE"):
        default_path()


@pytest.mark.parametrize(
    "text",
    [
        FINGERPRINT,
        HEX,
        HEX.upper(),
        "SHA256:" + HEX.upper(),
        ":".join(HEX[at : at + 2] for at in range(0, 64, 2)),
        "sha256:" + ":".join(HEX[at : at + 2] for at in range(0, 64, 2)).upper(),
        f"  {FINGERPRINT}\n",
    ],
)
def test_every_spelling_of_a_fingerprint_is_read(text: str) -> None:
    assert parse_fingerprint(text) == FINGERPRINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        HEX[:-1],
        HEX + "0",
        "sha1:" + HEX,
        "sha256:" * 2 + HEX,
        "g" + HEX[1:],
        "\u0660" + HEX[1:],
        HEX[:32] + " " + HEX[32:],
        "\x1b[2J",
    ],
)
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(IdentityInvalid, match="expected 'sha256:' and 64") as caught:
        parse_fingerprint(text)
    assert str(caught.value).isprintable()


@given(st.text())
def test_any_text_is_a_fingerprint_or_a_typed_error(text: str) -> None:
    with contextlib.suppress(IdentityInvalid):
        assert len(parse_fingerprint(text)) == len(FINGERPRINT)
