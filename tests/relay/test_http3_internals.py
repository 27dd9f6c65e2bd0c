"""The internals of aioquic and hypercorn that the relay's HTTP/3 side relies on, each by name.

They are nobody's promise: when a new version of either fails here, read relay/http3_*.py again.
"""

import asyncio
import inspect

import pylsqpack
import pytest
from aioquic._buffer import Buffer
from aioquic.h3 import connection as h3
from aioquic.quic import connection as quic
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.quic.stream import QuicStream
from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.config import Config
from hypercorn.protocol.h3 import H3Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream

from relay.core.path import Path
from relay.http3.limits import Http3Limits
from relay.http3.quic import server_configuration
from tests.relay.http3_client import certificate, path_of


@pytest.fixture
def connection() -> quic.QuicConnection:
    configuration = server_configuration(certificate(), Http3Limits())
    return quic.QuicConnection(
        configuration=configuration, original_destination_connection_id=bytes(8)
    )


def test_attributes_of_a_connection(connection: quic.QuicConnection) -> None:
    for name in (
        "_crypto_buffers",
        "_handshake_complete",
        "_host_cid_seq",
        "_host_cids",
        "_local_initial_source_connection_id",
        "_local_max_data",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_logger",
        "_loss",
        "_network_paths",
        "_remote_active_connection_id_limit",
        "_spaces",
        "_state",
        "_streams",
    ):
        assert hasattr(connection, name), name
    assert hasattr(connection._loss, "_logger")
    assert connection._host_cids[0].cid == connection.host_cid


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_methods_of_a_connection_that_are_replaced() -> None:
    replaced = {
        "_handle_crypto_frame": ["self", "context", "frame_type", "buf"],
        "_replenish_connection_ids": ["self"],
        "_write_stream_limits": ["self", "builder", "space", "stream"],
        "datagrams_to_send": ["self", "now"],
    }
    for name, expected in replaced.items():
        assert parameters(getattr(quic.QuicConnection, name)) == expected, name
    assert "os.urandom" in inspect.getsource(quic.QuicConnection._replenish_connection_ids)


def test_path_is_what_we_gave(connection: quic.QuicConnection) -> None:
    path = quic.QuicNetworkPath(path_of(1))
    assert isinstance(path.addr, Path)
    assert path.is_validated is False


def test_limit_is_doubled_by_assignment() -> None:
    limit = quic.Limit(frame_type=0x10, name="max_data", value=7)
    assert (limit.value, limit.sent, limit.used) == (7, 7, 0)
    source = inspect.getsource(quic.QuicConnection._write_connection_limits)
    assert "max_data.value *= 2" in source


def test_stream_and_packet_space() -> None:
    stream = QuicStream(stream_id=0)
    assert stream.sender._reset_error_code is None
    assert stream.sender._buffer_fin is None
    assert (stream.receiver.highest_offset, stream.receiver.starting_offset()) == (0, 0)
    assert stream.receiver.is_finished is False
    stream.receiver.stop(7)
    assert stream.receiver.stop_pending is True
    space = QuicPacketSpace()
    assert len(space.sent_packets) == 0
    assert space.ack_eliciting_in_flight == 0


def test_states() -> None:
    states = quic.QuicConnectionState
    assert {states.CLOSING, states.DRAINING, states.TERMINATED} == quic.END_STATES
    assert states.FIRSTFLIGHT not in quic.END_STATES


def test_retry_tokens_take_an_address() -> None:
    expected = ["self", "address", "destination_cid", "token", "now"]
    assert parameters(QuicRetryTokenHandler.validate_token) == expected
    token = QuicRetryTokenHandler().create_token(
        address=("fe80::1%2", 1),
        original_destination_connection_id=bytes(20),
        retry_source_connection_id=bytes(12),
        now=0.0,
    )
    assert len(token) < 150


def test_http3_framing(connection: quic.QuicConnection) -> None:
    frames = h3.H3Connection(connection)
    for name in (
        "_blocked_streams",
        "_decoder",
        "_max_table_capacity",
        "_received_settings",
        "_settings_received",
        "_stream",
    ):
        assert hasattr(frames, name), name
    assert h3.H3Stream(0).buffer == b""
    replaced = {
        "_decode_headers": ["self", "stream_id", "frame_data"],
        "_get_local_settings": ["self"],
        "_handle_control_frame": ["self", "frame_type", "frame_data"],
        "_init_connection": ["self"],
        "_validate_settings": ["self", "settings"],
    }
    for name, expected in replaced.items():
        assert parameters(getattr(h3.H3Connection, name)) == expected, name
    assert "self._init_connection()" in inspect.getsource(h3.H3Connection.__init__)
    assert issubclass(h3.MessageError, h3.ProtocolError)
    pylsqpack.Decoder(0, 0)
    assert Buffer(capacity=0).data == b""


def test_hypercorn() -> None:
    async def attributes() -> set[str]:
        # What Requests sets itself, because H3Protocol's own __init__ must not run.
        protocol = H3Protocol(
            None,  # type: ignore[arg-type]  # only the names of the attributes matter
            Config(),
            None,  # type: ignore[arg-type]  # as above
            None,  # type: ignore[arg-type]  # as above
            None,  # type: ignore[arg-type]  # as above
            None,
            None,
            quic.QuicConnection(
                configuration=server_configuration(certificate(), Http3Limits()),
                original_destination_connection_id=bytes(8),
            ),
            None,  # type: ignore[arg-type]  # as above
        )
        return set(vars(protocol))

    assert asyncio.run(attributes()) == {
        "app",
        "client",
        "config",
        "connection",
        "context",
        "send",
        "server",
        "state",
        "streams",
        "task_group",
    }
    assert parameters(H3Protocol.stream_send) == ["self", "event"]
    assert parameters(H3Protocol._create_server_push) == ["self", "stream_id", "path", "headers"]
    assert parameters(HTTPStream.__init__) == [
        "self",
        "app",
        "config",
        "context",
        "task_group",
        "ssl",
        "client",
        "server",
        "send",
        "stream_id",
    ]
    assert "task_group.spawn_app(" in inspect.getsource(HTTPStream.handle)
    assert ASGIHTTPState.REQUEST.name == "REQUEST"
    assert parameters(Lifespan.__init__) == ["self", "app", "config", "loop", "lifespan_state"]
