"""NAT-PMP and PCP, byte by byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.nat import natpmp, pcp
from relay.wire.address import Address

NONCE = bytes(range(12))
CLIENT = "192.0.2.7"
CLIENT_IN_SIX = "00000000000000000000ffffc0000207"


def test_natpmp_requests() -> None:
    # RFC 6886 §3.2 and §3.3
    assert natpmp.encode_outside_request().hex() == "0000"
    request = natpmp.encode_map_request(50000, 50001, 600)
    assert request.hex() == "00 01 0000 c350 c351 00000258".replace(" ", "")


@pytest.mark.parametrize(
    ("octets", "meaning"),
    [
        ("00 80 0000 00000009 cb007105", natpmp.OutsideAddress("203.0.113.5")),
        ("00 81 0000 00000009 c350 c351 00000258", natpmp.Mapped(50000, 50001, 600)),
        ("00 81 0002 00000009 c350 0000 00000000", natpmp.Refused(True, 2)),
        ("00 80 0003 00000009", natpmp.Refused(False, 3)),
        ("00 81 0000 00000009 c350 c351", None),  # cut
        ("00 80 0000 00000009", None),
        ("02 81 0000 00000009 c350 c351 00000258", None),  # another version
        ("00 01 0000 c350 c351 00000258", None),  # a request
        ("00 82 0000 00000009 c350 c351 00000258", None),  # TCP
        ("00", None),
        ("", None),
    ],
)
def test_natpmp_answers(octets: str, meaning: object) -> None:
    assert natpmp.decode_answer(bytes.fromhex(octets)) == meaning


def test_pcp_requests() -> None:
    # RFC 6887 §7.1, §11.1, §14.1
    assert pcp.encode_announce(CLIENT).hex() == "0200000000000000" + CLIENT_IN_SIX
    wanted = Address("0.0.0.0", 50001)
    request = pcp.encode_map_request(CLIENT, NONCE, 50000, wanted, 600)
    header = "02 01 0000 00000258" + CLIENT_IN_SIX
    fields = NONCE.hex() + "11 000000 c350 c351 00000000000000000000ffff00000000"
    assert request.hex() == (header + fields).replace(" ", "")
    with pytest.raises(ValueError, match="12 bytes"):
        pcp.encode_map_request(CLIENT, b"short", 50000, wanted, 600)


ANSWER = "02 81 00 {code} 00000258 00000009 000000000000000000000000"
FIELDS = NONCE.hex() + "11 000000 c350 c351 00000000000000000000ffffcb007105"


@pytest.mark.parametrize(
    ("octets", "meaning"),
    [
        (
            ANSWER.format(code="00") + FIELDS,
            pcp.Mapped(NONCE, 50000, Address("203.0.113.5", 50001), 600),
        ),
        (ANSWER.format(code="0c") + FIELDS, pcp.Refused(12, True, NONCE, 600)),
        (ANSWER.format(code="01"), pcp.Refused(1, True, b"", 600)),
        (ANSWER.format(code="00").replace("81", "80", 1), pcp.Announced()),
        (ANSWER.format(code="00"), None),  # cut
        (ANSWER.format(code="00") + FIELDS.replace("11 ", "06 ", 1), None),  # TCP
        (ANSWER.format(code="00").replace("81", "01", 1) + FIELDS, None),  # a request
        (ANSWER.format(code="00").replace("02", "03", 1) + FIELDS, None),
        ("02 81", None),
        ("", None),
    ],
)
def test_pcp_answers(octets: str, meaning: object) -> None:
    assert pcp.decode_answer(bytes.fromhex(octets)) == meaning


def test_an_older_server_is_known_by_its_refusal() -> None:
    assert pcp.is_older_version(bytes.fromhex("0081000100000009"))
    assert not pcp.is_older_version(bytes.fromhex("0281000100000009"))
    assert not pcp.is_older_version(b"")


@given(st.binary(max_size=1200) | st.builds(lambda tail: b"\x02\x81\x00\x00" + tail, st.binary()))
def test_anything_is_read_or_is_none(datagram: bytes) -> None:
    assert isinstance(pcp.decode_answer(datagram), pcp.Announced | pcp.Mapped | pcp.Refused | None)
    assert isinstance(
        natpmp.decode_answer(datagram),
        natpmp.OutsideAddress | natpmp.Mapped | natpmp.Refused | None,
    )
