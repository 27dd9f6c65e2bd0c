"""The relay's certificate: kept, and each mistake named."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from relay.certificate import SELF_SIGNED_FILE, CertificateError, ServerCertificate

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def pem_of(key: Key | dsa.DSAPrivateKey, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def certificate_for(key: Key) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1)
    )
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def load(directory: Path, certificate: bytes, private_key: bytes) -> ServerCertificate:
    (directory / "certificate.pem").write_bytes(certificate)
    (directory / "key.pem").write_bytes(private_key)
    return ServerCertificate.load(directory / "certificate.pem", directory / "key.pem")


def test_self_signed_is_made_once_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "quicpipe"
    first = ServerCertificate.self_signed(directory, "relay.example")
    second = ServerCertificate.self_signed(directory, "other.example")
    assert first.fingerprint == second.fingerprint
    assert first.chain == second.chain
    file = directory / SELF_SIGNED_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(directory.iterdir()) == [file]


def test_self_signed_contents(tmp_path: Path) -> None:
    certificate = ServerCertificate.self_signed(tmp_path, "relay.example")
    [leaf] = certificate.chain
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "relay.example"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ip_address("127.0.0.1"),
        ip_address("::1"),
    ]
    assert isinstance(certificate.private_key, ec.EllipticCurvePrivateKey)
    assert isinstance(certificate.private_key.curve, ec.SECP256R1)
    assert certificate.not_after > datetime.now(UTC) + timedelta(days=3600)
    assert certificate.is_self_signed
    der = leaf.public_bytes(serialization.Encoding.DER)
    assert certificate.fingerprint == "sha256:" + sha256(der).hexdigest()


@pytest.mark.parametrize("host_name", ["", "localhost", "-", "b\u00fcro", "a b", "x" * 300])
def test_host_name_that_is_none(tmp_path: Path, host_name: str) -> None:
    [leaf] = ServerCertificate.self_signed(tmp_path, host_name).chain
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_starts_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ServerCertificate.self_signed(tmp_path), range(16)))
    assert len({certificate.fingerprint for certificate in made}) == 1
    assert [file.name for file in tmp_path.iterdir()] == [SELF_SIGNED_FILE]


def test_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CertificateError, match="cannot be kept"):
        ServerCertificate.self_signed(tmp_path / "file")


def test_self_signed_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / SELF_SIGNED_FILE).write_text("damaged")
    with pytest.raises(CertificateError, match=r"remove .* to have a new one made"):
        ServerCertificate.self_signed(tmp_path)


def test_chain_and_key(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    certificate = load(tmp_path, certificate_for(key) + certificate_for(other), pem_of(key))
    assert len(certificate.chain) == 2
    assert certificate.chain[0].public_key() == key.public_key()


@pytest.mark.parametrize(
    "other", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)]
)
def test_other_keys_that_are_taken(tmp_path: Path, other: Key) -> None:
    load(tmp_path, certificate_for(other), pem_of(other))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519.*refuse.*P-256"),
        (ec.generate_private_key(ec.SECP521R1()), "secp521r1"),
        (rsa.generate_private_key(65537, 1024), "1024 bits"),
    ],
)
def test_keys_that_are_refused(tmp_path: Path, other: Key, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        load(tmp_path, certificate_for(other), pem_of(other))


def test_key_of_a_kind_that_signs_nothing(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(CertificateError, match="DSA"):
        load(tmp_path, certificate_for(key), pem_of(dsa.generate_private_key(1024)))


def test_key_of_another_certificate(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(CertificateError, match="does not belong to"):
        load(tmp_path, certificate_for(key), pem_of(other))
    with pytest.raises(CertificateError, match=r"number 2; .* first"):
        load(tmp_path, certificate_for(key) + certificate_for(other), pem_of(other))


@pytest.mark.parametrize("garbage", [b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAA\n"])
def test_files_that_are_not_pem(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, garbage: bytes
) -> None:
    with pytest.raises(CertificateError, match=r"certificate\.pem: .*BEGIN CERTIFICATE"):
        load(tmp_path, garbage, pem_of(key))
    with pytest.raises(CertificateError, match=r"key\.pem: .*BEGIN PRIVATE KEY"):
        load(tmp_path, certificate_for(key), garbage)


def test_files_in_the_wrong_order(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(CertificateError, match=r"certificate\.pem: holds no certificate"):
        load(tmp_path, pem_of(key), certificate_for(key))


def test_encrypted_key(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(CertificateError, match="encrypted"):
        load(tmp_path, certificate_for(key), pem_of(key, b"secret"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="no such file"):
        ServerCertificate.load(tmp_path / "missing", tmp_path / "missing")
    with pytest.raises(CertificateError, match="cannot be read: Is a directory"):
        ServerCertificate.load(tmp_path, tmp_path)


def test_chain_that_is_too_long(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(CertificateError, match="too long"):
        load(tmp_path, certificate_for(key) * 60, pem_of(key))


def test_every_message_is_one_line(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(CertificateError) as caught:
        load(tmp_path, certificate_for(key), b"")
    assert "\n" not in str(caught.value)
