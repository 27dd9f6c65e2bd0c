"""The exchange behind a code, end against end, and against whoever is in between."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import spake2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from peers.errors import AuthenticationFailed, CodeWrong, InviteInvalid, PeersError, UsageError
from peers.identity import Identity
from peers.rendezvous.code import Code
from peers.rendezvous.exchange import AccepterEnd, DialerEnd
from relay.wire.slots import MAX_MESSAGE

CODE = Code(7, ("crossword", "puppet"))
OTHER = Code(7, ("crossword", "pumpkin"))
ALICE, BOB, MALLORY = (Identity.generate() for _ in range(3))

Change = Callable[[bytes], bytes]


def same(message: bytes) -> bytes:
    return message


def changed(**fields: object) -> Change:
    """Replaces fields of a message; None leaves one away."""

    def change(message: bytes) -> bytes:
        merged = json.loads(message) | fields
        return json.dumps({k: v for k, v in merged.items() if v is not None}).encode()

    return change


STEPS = ("hello", "element", "dialers_proof", "accepters_proof", "invite")


class Run:
    """One exchange, with somebody in between who changes what he likes."""

    def __init__(self, dialers_code: Code = CODE, /, **changes: Change) -> None:
        """`changes`: by the step, one of `STEPS`."""
        self.accepter = AccepterEnd(CODE, ALICE)
        self.dialer = DialerEnd(dialers_code, BOB)
        self._changes = [changes.pop(step, same) for step in STEPS]
        assert not changes
        self.seen: list[bytes] = []

    def go(self) -> bytes:
        hello, element, dialers_proof, accepters_proof, invite = self._changes
        first = self._pass(self.dialer.hello())
        second = self._pass(self.accepter.receive_hello(hello(first)))
        third = self._pass(self.dialer.receive_element(element(second)))
        fourth = self._pass(self.accepter.receive_proof(dialers_proof(third)))
        self.dialer.receive_proof(accepters_proof(fourth))
        fifth = self._pass(self.dialer.seal_invite(b"the invite\n"))
        return self.accepter.receive_invite(invite(fifth))

    def _pass(self, message: bytes) -> bytes:
        assert 1 <= len(message) <= MAX_MESSAGE
        self.seen.append(message)
        return message


def test_two_ends_that_know_the_code() -> None:
    run = Run()
    assert run.go() == b"the invite\n"
    assert run.accepter.pairing_key == run.dialer.pairing_key
    assert len(run.accepter.pairing_key) == 32
    assert run.accepter.peer_fingerprint == BOB.fingerprint
    assert run.dialer.peer_fingerprint == ALICE.fingerprint


def test_what_goes_over_the_relay_holds_no_secret() -> None:
    run = Run()
    run.go()
    everything = b"\n".join(run.seen)
    key = run.accepter.pairing_key
    for secret in (b"crossword", b"puppet", b"the invite", key, key.hex().encode()):
        assert secret not in everything
    assert base64.b64encode(key) not in everything


def test_each_run_has_another_key() -> None:
    runs = [Run(), Run()]
    for run in runs:
        run.go()
    assert runs[0].accepter.pairing_key != runs[1].accepter.pairing_key


@pytest.mark.parametrize(
    "dialer",
    [OTHER, Code(7, ("puppet", "crossword")), Code(8, CODE.words)],
    ids=["word", "order", "slot"],
)
def test_another_code_is_wrong_and_the_accepter_finds_it_first(dialer: Code) -> None:
    run = Run(dialer)
    with pytest.raises(CodeWrong, match="the words at the two ends differ"):
        run.go()
    assert len(run.seen) == 3, "the accepter has proved nothing to a guesser"


FOREIGN = {"fingerprint": MALLORY.fingerprint}


@pytest.mark.parametrize(
    "changes",
    [
        {"hello": changed(**FOREIGN)},
        {"element": changed(**FOREIGN)},
        {"dialers_proof": changed(signature="AAAA")},
        {"dialers_proof": changed(proof=base64.b64encode(bytes(32)).decode())},
        {"dialers_proof": changed(proof="")},
        {"accepters_proof": changed(proof=base64.b64encode(bytes(32)).decode())},
        {"accepters_proof": changed(signature="AAAA")},
        {
            "accepters_proof": changed(
                certificate=base64.b64encode(MALLORY.certificate_der).decode()
            )
        },
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whoever_changes_a_message_is_found_out(changes: dict[str, Change]) -> None:
    with pytest.raises(CodeWrong):
        Run(**changes).go()


def test_elements_of_somebody_else_are_found_out() -> None:
    """The relay runs an exchange of its own with each end, with a guess."""
    mallory = AccepterEnd(OTHER, MALLORY)
    dialer = DialerEnd(CODE, BOB)
    proof = dialer.receive_element(mallory.receive_hello(dialer.hello()))
    with pytest.raises(CodeWrong):
        mallory.receive_proof(proof)
    accepter = AccepterEnd(CODE, ALICE)
    guess = DialerEnd(OTHER, MALLORY)
    proof = guess.receive_element(accepter.receive_hello(guess.hello()))
    with pytest.raises(CodeWrong):
        accepter.receive_proof(proof)
    # What the dialer said does not convince the real accepter either: it answers another element.
    accepter.receive_hello(dialer.hello())
    with pytest.raises(CodeWrong):
        accepter.receive_proof(proof)


def test_a_message_sent_back_to_its_sender_is_found_out() -> None:
    accepter = AccepterEnd(CODE, ALICE)
    element = accepter.receive_hello(DialerEnd(CODE, BOB).hello())
    proof = json.loads(element) | {"certificate": "", "signature": "", "proof": ""}
    with pytest.raises(AuthenticationFailed, match="no element"):
        accepter.receive_proof(json.dumps(proof).encode())
    run = Run(accepters_proof=lambda _: run.seen[2])
    with pytest.raises(CodeWrong):
        run.go()


def test_messages_of_an_earlier_run_are_found_out() -> None:
    earlier = Run()
    earlier.go()
    for step, name in enumerate(["element", "dialers_proof", "accepters_proof"], 1):
        replay: dict[str, Change] = {name: lambda _, step=step: earlier.seen[step]}  # type: ignore[misc]  # a default argument
        with pytest.raises(CodeWrong):
            Run(**replay).go()
    with pytest.raises(InviteInvalid):
        Run(invite=lambda _: earlier.seen[4]).go()


def test_an_invite_that_was_altered_is_refused() -> None:
    for place in (0, 5, -1):

        def flip(message: bytes, place: int = place) -> bytes:
            flipped = bytearray(message)
            flipped[place] ^= 1
            return bytes(flipped)

        with pytest.raises(InviteInvalid, match="altered"):
            Run(invite=flip).go()


def test_whoever_has_the_code_cannot_pose_as_somebody_else() -> None:
    """Mallory was told the code, and shows Bob's certificate, whose key she has not."""
    posing = replace(BOB, private_key=MALLORY.private_key)
    accepter, dialer = AccepterEnd(CODE, ALICE), DialerEnd(CODE, posing)
    proof = dialer.receive_element(accepter.receive_hello(dialer.hello()))
    with pytest.raises(AuthenticationFailed, match="cannot prove that its certificate") as failed:
        accepter.receive_proof(proof)
    assert not isinstance(failed.value, CodeWrong)


def test_a_certificate_that_is_not_the_one_named() -> None:
    accepter, dialer = AccepterEnd(CODE, ALICE), DialerEnd(CODE, BOB)
    element = accepter.receive_hello(dialer.hello())
    dialer._certificate = MALLORY.certificate_der
    with pytest.raises(AuthenticationFailed, match="not its own"):
        accepter.receive_proof(dialer.receive_element(element))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"v": 2}, "version 2 of codes"),
        ({"v": True}, "version True"),
        ({"v": None}, "version None"),
        ({"fingerprint": "sha256:12"}, "'fingerprint' is none"),
        ({"fingerprint": [1]}, "'fingerprint' is none"),
    ],
)
def test_a_hello_that_makes_no_sense(fields: dict[str, object], said: str) -> None:
    with pytest.raises(AuthenticationFailed, match=said):
        Run(hello=changed(**fields)).go()


SMALL_ORDER = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")


@pytest.mark.parametrize(
    "element",
    [
        None,
        1,
        "",
        "A",
        base64.b64encode(b"A" + bytes(31)).decode(),
        base64.b64encode(b"A" + bytes(32)).decode(),
        base64.b64encode(b"A\x01" + bytes(31)).decode(),  # the neutral element
        base64.b64encode(b"A" + SMALL_ORDER).decode(),
        base64.b64encode(b"A" + b"\xff" * 32).decode(),
        base64.b64encode(b"A\x02" + bytes(31)).decode(),  # not on the curve
        base64.b64encode(b"B" + bytes(32)).decode(),  # the wrong side
        base64.b64encode(b"\xff" + bytes(32)).decode(),
    ],
)
def test_what_is_no_element(element: object) -> None:
    with pytest.raises(AuthenticationFailed, match="'element'"):
        Run(element=changed(element=element)).go()


@given(st.binary(max_size=60) | st.dictionaries(st.text(max_size=9), st.text(max_size=9)))
def test_any_message_is_taken_or_refused(message: bytes | dict[str, str]) -> None:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    accepter, dialer = AccepterEnd(CODE, ALICE), DialerEnd(CODE, BOB)
    for receive in (accepter.receive_hello, dialer.receive_element):
        with pytest.raises(AuthenticationFailed):
            receive(body)
    accepter.receive_hello(dialer.hello())
    with pytest.raises(AuthenticationFailed):
        accepter.receive_proof(body)


def test_a_certificate_that_does_not_fit() -> None:
    class Large(Identity):
        @property
        def certificate_der(self) -> bytes:
            return bytes(2000)

    with pytest.raises(UsageError, match="2000 bytes, which is too much"):
        DialerEnd(CODE, Large(BOB.certificate, BOB.private_key))


def test_there_is_no_key_before_both_elements_are_known() -> None:
    with pytest.raises(RuntimeError):
        _ = AccepterEnd(CODE, ALICE).pairing_key


def test_the_errors_are_of_this_package() -> None:
    assert issubclass(CodeWrong, AuthenticationFailed)
    assert issubclass(AuthenticationFailed, PeersError)
    assert isinstance(ALICE.certificate, x509.Certificate)


def hkdf(key: bytes, info: str) -> bytes:
    """RFC 5869 with SHA-256, no salt, 32 bytes."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info.encode() + b"\x01", "sha256")


def with_length(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def test_a_dialer_written_after_the_protocol_alone() -> None:
    """docs/protocol.md §11.3, step by step, with nothing of ours."""
    accepter = AccepterEnd(CODE, ALICE)
    hello = {"v": 1, "fingerprint": BOB.fingerprint, "of a later version": [1]}
    answer = json.loads(accepter.receive_hello(json.dumps(hello).encode()))
    assert answer.keys() == {"v", "fingerprint", "element"}
    id_a = f"quicpipe/1 code 7 accepter {answer['fingerprint']}".encode()
    id_b = f"quicpipe/1 code 7 dialer {BOB.fingerprint}".encode()
    spake = spake2.SPAKE2_B(b"crossword-puppet", idA=id_a, idB=id_b)
    element, theirs = spake.start(), base64.b64decode(answer["element"])
    key = spake.finish(theirs)
    parts = with_length(b"quicpipe/1 code", id_a, id_b, theirs, element)
    transcript = hashlib.sha256(parts).digest()

    certificate = BOB.certificate_der
    signature = BOB.sign(b"quicpipe/1 code dialer signature\0" + transcript)
    proven = transcript + with_length(certificate, signature)
    proof = hmac.digest(hkdf(key, "quicpipe/1 code dialer proof"), proven, "sha256")
    message = {
        "element": element,
        "certificate": certificate,
        "signature": signature,
        "proof": proof,
    }
    encoded = {name: base64.b64encode(value).decode() for name, value in message.items()}
    shown = json.loads(accepter.receive_proof(json.dumps(encoded).encode()))

    assert shown.keys() == {"certificate", "signature", "proof"}
    its = {name: base64.b64decode(value) for name, value in shown.items()}
    proven = transcript + with_length(its["certificate"], its["signature"])
    wanted = hmac.digest(hkdf(key, "quicpipe/1 code accepter proof"), proven, "sha256")
    assert its["proof"] == wanted
    public_key = ALICE.certificate.public_key()
    assert isinstance(public_key, Ed25519PublicKey)
    public_key.verify(its["signature"], b"quicpipe/1 code accepter signature\0" + transcript)

    sealing = ChaCha20Poly1305(hkdf(key, "quicpipe/1 code invite"))
    sealed = sealing.encrypt(bytes(12), b"an invite", transcript)
    assert accepter.receive_invite(sealed) == b"an invite"
    assert accepter.pairing_key == hkdf(key, "quicpipe/1 code pairing key")


def test_an_identity_with_an_ecdsa_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a peer")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ALICE.certificate.not_valid_before_utc)
        .not_valid_after(ALICE.certificate.not_valid_after_utc)
        .sign(key, SHA256())
    )
    carol = Identity(certificate, key)
    accepter, dialer = AccepterEnd(CODE, carol), DialerEnd(CODE, BOB)
    proof = dialer.receive_element(accepter.receive_hello(dialer.hello()))
    dialer.receive_proof(accepter.receive_proof(proof))
    assert dialer.peer_fingerprint == carol.fingerprint
