"""What the relay tells a peer of the peer's own address (docs/protocol.md §12.1)."""

import json
from dataclasses import dataclass

from .address import Address
from .body import MalformedRequest, json_object

ADDRESS_PATH = "/v1/address"

MAX_LISTENERS = 32
"""How many of the relay's own addresses are told, or read."""


@dataclass(frozen=True, slots=True)
class AddressAnswer:
    """Where a peer is, seen from the relay, and where else the relay can be asked."""

    address: Address
    """The peer's, of the QUIC connection that the request came on."""
    listeners: tuple[Address, ...] = ()
    """Where the relay listens. The host `0.0.0.0` or `::` stands for whichever address of that
    family the peer knows the relay by."""

    def encode(self) -> bytes:
        """The JSON body."""
        listeners = [str(each) for each in self.listeners[:MAX_LISTENERS]]
        return json.dumps({"address": str(self.address), "listeners": listeners}).encode()

    @classmethod
    def decode(cls, body: bytes) -> "AddressAnswer":
        """Read an answer. Listeners that make no sense are left out.

        :raises MalformedRequest: if it is none.
        """
        fields = json_object(body)
        address = _address(fields.get("address"))
        if address is None:
            raise MalformedRequest("'address' is missing, or is no IP address with a port")
        listed = fields.get("listeners")
        texts = listed[:MAX_LISTENERS] if isinstance(listed, list) else []
        found = [each for each in map(_address, texts) if each is not None]
        return cls(address, tuple(dict.fromkeys(found)))


def _address(value: object) -> Address | None:
    try:
        return Address.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None
