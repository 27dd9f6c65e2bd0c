"""Which relay is trusted: pinned, vouched for by a root, or self-signed on this machine."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from peers.errors import IdentityInvalid, RelayUntrusted
from peers.identity import Identity, fingerprint_of
from peers.trust import RelayTrust
from relay.wire.address import Address

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FAR = Address("192.0.2.1", 4433)
LOOPBACKS = [Address("127.0.0.1", 4433), Address("127.8.8.8", 1), Address("::1", 4433)]


@dataclass(frozen=True)
class Authority:
    """A private root: certificates for tests, and the file that trusts it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    roots: Path

    def issue(self, *names: str, until: datetime = NOW + DAY) -> list[bytes]:
        """A server's chain (without the root) for DNS names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        certificate = (
            _builder("leaf", "root", key.public_key(), until)
            .add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False
            )
            .sign(self.key, hashes.SHA256())
        )
        return [certificate.public_bytes(serialization.Encoding.DER)]


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(until)
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder("root", "root", key.public_key(), NOW + 10 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(usage, True)
        .sign(key, hashes.SHA256())
    )
    roots = tmp_path_factory.mktemp("trust") / "roots.pem"
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    roots.write_bytes(b"# a comment\n" + broken + pem)
    return Authority(key, certificate, roots)


@pytest.fixture(scope="module")
def self_signed() -> bytes:
    return Identity.generate().certificate.public_bytes(serialization.Encoding.DER)


def refusal(policy: RelayTrust, chain: list[bytes], host: str, address: Address) -> RelayUntrusted:
    with pytest.raises(RelayUntrusted) as caught:
        policy.check(chain, host, address, NOW)
    assert str(caught.value).isprintable()
    return caught.value


def test_a_chain_to_a_root_is_trusted_for_the_names_in_it(authority: Authority) -> None:
    policy = RelayTrust(roots=authority.roots)
    chain = authority.issue("relay.example", "192.0.2.1", "2001:db8::1", "xn--bcher-kva.example")
    for host in ("relay.example", "relay.example.", "192.0.2.1", "2001:db8::1", "bücher.example"):
        policy.check(chain, host, FAR, NOW)
    for host in ("other.example", "192.0.2.2", "a.relay.example", "", "a..b", "x" * 300, "é" * 80):
        error = refusal(policy, chain, host, FAR)
        assert error.fingerprint == fingerprint_of(chain[0])


def test_a_refusal_says_what_to_compare_and_which_option_to_give(
    authority: Authority, self_signed: bytes
) -> None:
    error = refusal(RelayTrust(roots=authority.roots), [self_signed], "relay.example", FAR)
    assert "relay.example (192.0.2.1:4433)" in str(error)
    assert "self-signed" in str(error)
    assert f"--relay-fingerprint {fingerprint_of(self_signed)}" in str(error)
    RelayTrust(fingerprint=error.fingerprint).check([self_signed], "relay.example", FAR, NOW)


def test_an_expired_chain_is_refused(authority: Authority) -> None:
    chain = authority.issue("relay.example", until=NOW - timedelta(hours=1))
    refusal(RelayTrust(roots=authority.roots), chain, "relay.example", FAR)


def test_a_root_that_this_system_does_not_know_is_refused(authority: Authority) -> None:
    chain = authority.issue("relay.example")
    root = authority.certificate.public_bytes(serialization.Encoding.DER)
    for shown in (chain, [*chain, root]):
        error = refusal(RelayTrust(), shown, "relay.example", FAR)
        assert "no root certificate" in str(error)


@pytest.mark.parametrize("address", LOOPBACKS, ids=str)
def test_self_signed_is_trusted_unasked_on_loopback(self_signed: bytes, address: Address) -> None:
    RelayTrust().check([self_signed], "localhost", address, NOW)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "0.0.0.0", "::", "10.0.0.1", "fe80::1%lo", "2001:db8::1"]
)
def test_self_signed_is_trusted_nowhere_else(self_signed: bytes, address: str) -> None:
    # Also where the name only says that it is local.
    refusal(RelayTrust(), [self_signed], "localhost", Address(address, 4433))


def test_on_loopback_a_broken_certificate_is_still_refused(authority: Authority) -> None:
    for chain in ([b""], [b"\x30\x03\x02\x01\x01"], authority.issue("relay.example")):
        refusal(RelayTrust(), chain, "localhost", LOOPBACKS[0])


def test_no_certificate_at_all() -> None:
    for policy in (RelayTrust(), RelayTrust(fingerprint="ab" * 32)):
        assert refusal(policy, [], "localhost", LOOPBACKS[0]).fingerprint == ""


def test_a_pinned_relay_is_trusted_whatever_it_says(authority: Authority) -> None:
    chain = authority.issue("other.example", until=NOW - timedelta(hours=1))
    policy = RelayTrust(fingerprint=fingerprint_of(chain[0]).upper())
    policy.check(chain, "relay.example", FAR, NOW)


def test_with_a_pin_no_other_relay_is_trusted(authority: Authority, self_signed: bytes) -> None:
    policy = RelayTrust(fingerprint="ab" * 32, roots=authority.roots)
    error = refusal(policy, authority.issue("relay.example"), "relay.example", FAR)
    assert "expected sha256:abab" in str(error)
    refusal(policy, [self_signed], "localhost", LOOPBACKS[0])


def test_a_pin_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(IdentityInvalid):
        RelayTrust(fingerprint="sha256:12")


def test_without_any_roots_loopback_and_pins_still_work(tmp_path: Path, self_signed: bytes) -> None:
    policy = RelayTrust(roots=tmp_path / "missing.pem")
    policy.check([self_signed], "localhost", LOOPBACKS[0], NOW)
    refusal(policy, [self_signed], "relay.example", FAR)
