"""What the tests of the peers share."""

import pytest

from relay.certificate import ServerCertificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    """A self-signed certificate for relays in this process."""
    return ServerCertificate.self_signed(tmp_path_factory.mktemp("relay"), "relay.example")
