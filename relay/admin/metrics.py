"""What Prometheus scrapes. Labels have values from our own code only: no address, no subject, no id
ever becomes one, so that nobody outside can make the number of time series grow."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from relay.admin.guard import Denied, Guard
from relay.admin.sight import Sight
from relay.admin.source import Totals
from relay.core.admission import TokenRefusal
from relay.core.destinations import DestinationRefusal
from relay.core.outcome import Outcome
from relay.core.quota import RegistryRefusal
from relay.http3.report import Failure, Refused

MAX_VALUES = 128
"""Values of one label: more than there are. Should there be more, `other` has the rest."""

PREFIX = "quicpipe_relay_"

_REFUSALS = (*TokenRefusal, *RegistryRefusal, *DestinationRefusal)


class Metrics:
    """Makes the text of one scrape."""

    def __init__(self, sight: Sight, guard: Guard) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Relay(sight, guard))
        ProcessCollector(registry=self._registry)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """The text, and its content type: OpenMetrics where the client asks for it."""
        # The library's own choice repeats parts of the client's header: this one does not.
        if "application/openmetrics-text" in accept.lower():
            make: Callable[[CollectorRegistry], bytes] = openmetrics.generate_latest
            return make(self._registry), openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class _Relay(Collector):
    def __init__(self, sight: Sight, guard: Guard) -> None:
        self._sight = sight
        self._guard = guard

    def collect(self) -> Iterator[Metric]:
        totals = self._sight.totals()
        yield from self._datagrams(totals)
        yield from self._registrations(totals)
        yield from self._http3(totals)
        yield from self._itself(totals)

    def describe(self) -> Iterable[Metric]:
        return []  # else the registry collects once to see the names

    def _datagrams(self, totals: Totals) -> Iterator[Metric]:
        outcomes = {each.value: 0 for each in Outcome} | dict(totals.outcomes)
        yield _counters(
            "datagrams",
            "Datagrams that the workers read, by what became of them.",
            outcomes,
            label="outcome",
        )
        if totals.kernel:
            yield _counters(
                "kernel_frames",
                "Frames that the kernel saw: forwarded, dropped, or passed up, by reason.",
                totals.kernel,
                label="outcome",
            )
        forwarded = {"userspace": totals.bytes_forwarded, "kernel": totals.kernel_bytes}
        yield _counters(
            "forwarded_bytes", "UDP payload that was forwarded, by whom.", forwarded, label="by"
        )
        yield _counters(
            "drops", "Datagrams that ended here, by reason, whoever dropped them.", totals.drops
        )

    def _registrations(self, totals: Totals) -> Iterator[Metric]:
        yield _gauge("registrations", "Registrations now.", totals.registrations)
        yield _gauge("connection_ids", "Registered connection IDs now.", totals.connection_ids)
        yield _gauges(
            "limit", "How much there may be, in all.", self._sight.source.limits(), label="of"
        )
        refused = {each.value: 0 for each in _REFUSALS} | dict(totals.refused)
        yield _counters("refused", "Requests that were refused, by reason.", refused)
        events = {kind.value: count for kind, count in self._sight.hub.counts.items()}
        yield _counters("events", "What happened to registrations.", events, label="kind")
        yield _gauges(
            "rendezvous",
            "What the rendezvous has and has counted: listeners, invites, slots, refusals.",
            totals.rendezvous,
            label="what",
        )

    def _http3(self, totals: Totals) -> Iterator[Metric]:
        http3 = totals.http3
        yield _gauge("http3_connections", "HTTP/3 connections now.", http3.connections)
        yield _gauge("http3_half_open", "Unfinished handshakes now.", http3.half_open)
        yield _counter("http3_handshakes", "Handshakes that were finished.", http3.handshakes)
        yield _counter("http3_retries", "Initials that were answered with Retry.", http3.retried)
        yield _counter("http3_pauses", "Times at which newcomers had to wait.", http3.pauses)
        yield _counter("http3_requests", "Requests for the application.", http3.requests)
        yield _counter("http3_answers_lost", "Datagrams that were not sent.", totals.answers_lost)
        refused = {each.value: 0 for each in Refused} | dict(http3.refused)
        yield _counters("http3_refused", "Datagrams that HTTP/3 did not take, by reason.", refused)
        failed = {each.value: 0 for each in Failure} | dict(http3.failures)
        yield _counters(
            "http3_failed", "Connections and requests that ended badly, by reason.", failed
        )

    def _itself(self, totals: Totals) -> Iterator[Metric]:
        info = GaugeMetricFamily(PREFIX + "info", "1; the version is a label.", labels=["version"])
        info.add_metric([_version()], 1)
        yield info
        started = self._sight.started
        yield _gauge("start_time_seconds", "When the relay began, since 1970.", started)
        yield _gauge("workers", "Forwarding processes that run now.", totals.workers)
        if totals.certificate_until is not None:
            until = totals.certificate_until
            yield _gauge("certificate_until_seconds", "When it expires, since 1970.", until)
        yield _gauge("draining", "Whether nothing new is taken.", int(totals.is_draining))
        stall = self._sight.longest_stall_s
        yield _gauge(
            "longest_stall_seconds",
            "For how long the control was busy at the most, in the last minute.",
            stall,
        )
        hub = self._sight.hub
        yield _gauge("event_streams", "Clients that follow the events now.", hub.watchers)
        yield _counter("events_lost", "Events that slow clients have lost.", hub.lost)
        yield _counters(
            "admin_denied", "Requests to the admin listener that were denied.", self._guard.denied
        )


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counters(
    name: str, text: str, values: Mapping[str, int] | Mapping[Denied, int], label: str = "reason"
) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for value, count in bounded(values).items():
        family.add_metric([value], count)
    return family


def _gauges(name: str, text: str, values: Mapping[str, int], label: str) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for value, count in bounded(values).items():
        family.add_metric([value], count)
    return family


def bounded(values: Mapping[str, int] | Mapping[Denied, int]) -> dict[str, int]:
    """At most `MAX_VALUES`: those that come last are added up."""
    kept = {str(name): count for name, count in list(values.items())[:MAX_VALUES]}
    rest = list(values.values())[MAX_VALUES:]
    if rest:
        kept["other"] = kept.get("other", 0) + sum(rest)
    return kept


def _version() -> str:
    try:
        return version("quicpipe")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
