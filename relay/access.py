"""The rules at the relay's door: who is taken, how often, and where the relay sends for him."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field

import ifaddr

from relay.config import Config
from relay.core.destinations import Destinations
from relay.core.limits import RateLimits
from relay.tokens import Secrets, Verifier, is_open_to_all, read_revoked
from relay.wire.address import Address

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """One value, which a reload replaces."""

    verifier: Verifier | None = None
    """None: the relay is open."""
    destinations: Destinations = field(default_factory=Destinations)
    source_rate: RateLimits = field(default_factory=RateLimits)
    """Requests of one source that change something."""
    token_rate: RateLimits | None = None
    """Registrations of one subject; None: no limit."""
    total_rate: RateLimits | None = None
    """Registrations of everybody; None: no limit."""
    requests_per_token: int = 256
    """At once, of one subject."""


def access_for(config: Config, listeners: Collection[Address]) -> Access:
    """The rules that the operator's settings make. Reads the files that they name.

    :param listeners: the relay's own addresses, with their real ports.
    :raises TokenFileError: one of the files cannot be used.
    """
    limits = config.limits
    verifier = None
    secrets = load_secrets(config)
    if secrets is not None:
        file = config.revoked_file
        revoked = read_revoked(file) if file is not None else frozenset()
        verifier = Verifier(secrets, revoked, limits.after_expiry_s)
    return Access(
        verifier,
        Destinations(listeners, own_hosts, config.allow_private),
        limits.source_rate(),
        limits.token_rate(),
        limits.total_rate(),
        limits.requests_per_token,
    )


def load_secrets(config: Config) -> Secrets | None:
    """What tokens are signed with; None: the relay is open.

    :raises TokenFileError: there is something, but it cannot be used.
    """
    if config.token_secret_file is not None:
        return Secrets.load(config.token_secret_file)
    if config.token_secret is not None:
        return Secrets.parse(config.token_secret, "QUICPIPE_RELAY_TOKEN_SECRET")
    return None


def warn_of_risks(config: Config) -> None:
    """Log what an operator should know before something happens."""
    if config.open and not config.is_on_loopback:
        logger.warning("open to everybody: whoever finds this relay can use it (--open)")
    file = config.token_secret_file
    if file is not None and is_open_to_all(file):
        logger.warning(
            "every user of this machine can read the token secret %s: 'chmod o-r' it", file
        )


def own_hosts() -> Collection[str]:
    """This machine's IP addresses, as `Address.host` writes them."""
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError:
        return frozenset()
    addresses = [each.ip for adapter in adapters for each in adapter.ips]
    return frozenset(ip if isinstance(ip, str) else ip[0] for ip in addresses)
