"""Which address families this machine has."""

import socket

import pytest


def has_ipv6() -> bool:
    """Whether one can bind to the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


HAS_IPV6 = has_ipv6()
NO_IPV6 = "this machine has no IPv6"

needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason=NO_IPV6)
