"""Which certificate the relay serves with, and what the operator should know of it."""

import logging
import stat
from datetime import datetime, timedelta
from pathlib import Path

from relay.certificate import CertificateError, ServerCertificate
from relay.config import Config

logger = logging.getLogger(__name__)

WARN_BEFORE = timedelta(days=14)
"""Whoever renews certificates by a timer has done so by then."""


def load_certificate(config: Config) -> ServerCertificate:
    """The operator's, or a self-signed one, made once and kept.

    :raises CertificateError: there is none.
    """
    if config.certificate is not None and config.private_key is not None:
        _warn_if_open_to_all(config.private_key)
        return ServerCertificate.load(config.certificate, config.private_key)
    if config.state_directory is None:
        raise CertificateError(
            "there is no place to keep a certificate: set HOME or STATE_DIRECTORY, "
            "or give --certificate and --private-key"
        )
    return ServerCertificate.self_signed(config.state_directory)


def log_certificate(certificate: ServerCertificate, now: datetime) -> None:
    """Say which it is, louder if somebody must act on it: tell peers of it, or renew it."""
    if certificate.is_self_signed:
        logger.warning("certificate %s (self-signed)", certificate.fingerprint)
    else:
        logger.info("certificate %s", certificate.fingerprint)
    warn_of_end(certificate, now)


def warn_of_end(certificate: ServerCertificate, now: datetime) -> None:
    """Say if it has ended, or is about to."""
    end = certificate.not_after
    if end < now:
        logger.warning(
            "the certificate expired on %s, and peers that verify it by name refuse it: renew it",
            end.date(),
        )
    elif end < now + WARN_BEFORE:
        logger.warning(
            "the certificate expires on %s: renew it, and then 'quicpipe-relay reload'", end.date()
        )


def _warn_if_open_to_all(private_key: Path) -> None:
    """A group may have it: so some systems hand keys to services."""
    try:
        mode = private_key.stat().st_mode
    except OSError:
        return  # loading it says so
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        logger.warning(
            "every user of this machine can read the private key %s: 'chmod o-r' it", private_key
        )
