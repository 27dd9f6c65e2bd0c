"""The whole relay in one process and its workers: sockets, control, supervisor, signals."""

import asyncio
import logging
import signal
import stat
import sys
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path as FilePath

from relay.access import Access, access_for, warn_of_risks
from relay.certificate import CertificateError, ServerCertificate
from relay.config import Config
from relay.control import Control
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.forwarding.sockets import Listener, ListenError, open_listeners
from relay.forwarding.supervisor import PoolTimes, WorkerPool, WorkersFailed
from relay.kernel.service import KernelRequired, KernelService
from relay.logs import ALWAYS, discard
from relay.tokens import TokenFileError

logger = logging.getLogger(__name__)
counters_logger = logging.getLogger(ALWAYS)

_REPORTS_PER_LEASE = 10
_MAX_REPORT_INTERVAL_S = 1.0
"""Workers tell whom they heard of so often that no lease ends for want of it."""

_COUNT_PATIENCE_S = 0.5


class StartFailed(Exception):
    """The relay cannot run; the text is one line for the operator."""


def run(config: Config) -> int:
    """Run until a signal ends it; returns the exit code.

    :raises StartFailed: it cannot run, or not any longer.
    """
    try:
        certificate = _certificate(config)
        listeners = open_listeners(config.listen, config.workers)
    except (CertificateError, ListenError) as error:
        raise StartFailed(str(error)) from None
    try:
        access = access_for(config, [listener.address for listener in listeners])
        warn_of_risks(config)
        return asyncio.run(Relay(config, listeners, certificate, access).serve())
    except TokenFileError as error:
        raise StartFailed(str(error)) from None
    except (KernelRequired, WorkersFailed) as error:
        raise StartFailed(str(error)) from None
    finally:
        for listener in listeners:
            listener.close()


class Relay:
    """One running relay."""

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        certificate: ServerCertificate,
        access: Access | None = None,
    ) -> None:
        """`listeners` stay the caller's, who closes them."""
        self._config = config
        self._listeners = listeners
        self._certificate = certificate
        self._access = access
        self._answers_lost = 0

    async def serve(self) -> int:
        """Run until SIGTERM, SIGINT, or SIGHUP (the terminal was closed) unless `nohup` said no.

        :raises WorkersFailed: there is nobody to forward.
        :raises KernelRequired: the kernel was to forward, and cannot.
        """
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _resolve, end)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, _resolve, end)
        self._pool = pool = WorkerPool(self._listeners, self._pool_times)
        addresses = [listener.address for listener in self._listeners]
        self._kernel = KernelService(self._config.kernel, addresses, self._config.lease_s)
        self._control = Control(
            certificate=self._certificate,
            forwarders=[pool, *self._kernel.forwarders],
            send=self._send,
            registry_limits=self._config.limits.registry(self._config.lease_s),
            http3_limits=self._config.limits.http3(),
            access=self._access,
            restored=self._kernel.records,
            listeners=addresses,
        )
        self._kernel.begin(self._control.leases)
        reports: set[asyncio.Task[None]] = set()

        def report() -> None:
            if not reports:  # one at a time
                task = loop.create_task(self._report("counters"))
                reports.add(task)
                task.add_done_callback(reports.discard)

        loop.add_signal_handler(signal.SIGUSR1, report)
        await self._control.start()
        try:
            start = pool.start(
                self._control.state,
                receive=self._control.receive_http3,
                heard=self._control.seen,
                failed=lambda error: _resolve(end, error),
            )
            if await _done_before(end, start):
                await self._kernel.attach(heard=self._control.seen)
                log_certificate(self._certificate, datetime.now(UTC))
                _announce(self._listeners)
            await end
        finally:
            logger.info("ending")
            await self._control.stop()
            await pool.stop()
            self._log_counters("counters at the end")
            self._kernel.stop()
        return 0

    @property
    def _pool_times(self) -> PoolTimes:
        interval_s = min(_MAX_REPORT_INTERVAL_S, self._config.lease_s / _REPORTS_PER_LEASE)
        return PoolTimes(report_interval_s=interval_s)

    def _send(self, datagram: bytes, path: Path) -> None:
        try:
            self._listeners[path.listener].send(datagram, path)
        except OSError:  # QUIC sends again what matters
            self._answers_lost += 1

    async def _report(self, title: str) -> None:
        try:
            async with asyncio.timeout(_COUNT_PATIENCE_S):
                await self._pool.synchronise()
        except TimeoutError:
            title += ", as last reported"
        self._log_counters(title)

    def _log_counters(self, title: str) -> None:
        counters = self._pool.counters()
        http3 = self._control.http3_counters
        fields: dict[str, int] = {
            **{outcome.value: counters.of(outcome) for outcome in Outcome},
            "bytes_forwarded": counters.bytes_forwarded,
            **self._kernel.counters(),
            "receive_queue_full": sum(listener.lost() for listener in self._listeners),
            "answers_lost": self._answers_lost,
            "registrations": self._control.registrations,
            "connection_ids": self._control.connection_ids,
            "http3_connections": http3.connections,
            "http3_half_open": http3.half_open,
            "http3_handshakes": http3.handshakes,
            "http3_retried": http3.retried,
            "http3_requests": http3.requests,
            **{f"refused_{why}": n for why, n in self._control.refused_counters().items()},
            **{f"http3_refused_{reason}": count for reason, count in http3.refused.items()},
            **{f"http3_failed_{reason}": count for reason, count in http3.failures.items()},
            **{
                f"rendezvous_{name}": count
                for name, count in self._control.rendezvous_counters().items()
            },
        }
        counters_logger.info("%s", title, extra={"fields": fields})


def _resolve(end: "asyncio.Future[None]", error: Exception | None = None) -> None:
    if end.done():
        return
    if error is None:
        end.set_result(None)
    else:
        end.set_exception(error)


async def _done_before(end: "asyncio.Future[None]", work: Coroutine[object, None, None]) -> bool:
    """Do `work`, unless `end` is resolved first; whether it was done. Raises what `work` does."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        if end.done():
            return False
        task.result()
        return True
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _certificate(config: Config) -> ServerCertificate:
    if config.certificate is not None and config.private_key is not None:
        _warn_if_open_to_all(config.private_key)
        return ServerCertificate.load(config.certificate, config.private_key)
    if config.state_directory is None:
        raise StartFailed(
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
    if certificate.not_after < now:
        logger.warning(
            "the certificate expired on %s, and peers that verify it by name refuse it: renew it",
            certificate.not_after.date(),
        )


def _warn_if_open_to_all(private_key: FilePath) -> None:
    """A group may have it: so some systems hand keys to services."""
    try:
        mode = private_key.stat().st_mode
    except OSError:
        return  # loading it says so
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        logger.warning(
            "every user of this machine can read the private key %s: 'chmod o-r' it", private_key
        )


def _announce(listeners: Sequence[Listener]) -> None:
    """Say on stdout that the relay is ready; should nobody read it, go on."""
    where = " ".join(str(listener.address) for listener in listeners)
    try:
        sys.stdout.write(f"quicpipe-relay listening on {where}\n")
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
