"""Every private attribute of a dependency that we rely on, by name.

The upper bounds in pyproject.toml keep these dependencies where this was checked. When a bound is
moved and something here fails, the module that is named needs a look.
"""

import dataclasses

import pytest
from aioquic import tls
from aioquic.quic import connection, recovery, stream
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.congestion import base
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket

QUIC = QuicConnection(configuration=QuicConfiguration(is_client=True))
QUIC.connect(("peer", 0), 0.0)
RECOVERY = QUIC._loss
SPACE = RECOVERY.spaces[0]
STREAM = stream.QuicStream(stream_id=0)

Internal = tuple[object, str]

# peers/quic
AIOQUIC_BY_PEERS: list[Internal] = [
    (connection, "END_STATES"),
    (connection, "Limit"),
    (connection, "MAX_STREAM_DATA_FRAME_CAPACITY"),
    (connection, "QuicConnectionAdapter"),
    (connection, "QuicConnectionId"),
    (connection, "QuicConnectionState"),
    (connection, "QuicReceiveContext"),
    (QUIC, "_close_at"),
    (QUIC, "_close_event"),
    (QUIC, "_close_pending"),
    (QUIC, "_datagrams_pending"),
    (QUIC, "_handshake_complete"),
    (QUIC, "_handshake_confirmed"),
    (QUIC, "_host_cid_seq"),
    (QUIC, "_host_cids"),
    (QUIC, "_is_client"),
    (QUIC, "_local_initial_source_connection_id"),
    (QUIC, "_local_max_data"),
    (QUIC, "_local_max_streams_bidi"),
    (QUIC, "_local_max_streams_uni"),
    (QUIC, "_local_next_stream_id_uni"),
    (QUIC, "_logger"),
    (QUIC, "_loss"),
    (QUIC, "_max_datagram_size"),
    (QUIC, "_network_paths"),
    (QUIC, "_packet_number"),
    (QUIC, "_peer_cid"),
    (QUIC, "_peer_cid_available"),
    (QUIC, "_remote_active_connection_id_limit"),
    (QUIC, "_remote_max_datagram_frame_size"),
    (QUIC, "_remote_max_idle_timeout"),
    (QUIC, "_spaces"),
    (QUIC, "_state"),
    (QUIC, "_streams"),
    (QUIC, "host_cid"),
    (QUIC, "tls"),
    (QuicConnection, "_close_end"),
    (QuicConnection, "_consume_peer_cid"),
    (QuicConnection, "_handle_connection_close_frame"),
    (QuicConnection, "_handle_path_challenge_frame"),
    (QuicConnection, "_idle_timeout"),
    (QuicConnection, "_initialize"),
    (QuicConnection, "_on_max_stream_data_delivery"),
    (QuicConnection, "_receive_retry_packet"),
    (QuicConnection, "_receive_version_negotiation_packet"),
    (QuicConnection, "_replenish_connection_ids"),
    (QuicConnection, "_retire_peer_cid"),
    (QuicConnection, "_send_probe"),
    (QuicConnection, "_stream_limit"),
    (QuicConnection, "_update_traffic_key"),
    (QuicConnection, "_write_ack_frame"),
    (QuicConnection, "_write_connection_close_frame"),
    (QuicConnection, "_write_datagram_frame"),
    (QuicConnection, "_write_reset_stream_frame"),
    (QuicConnection, "_write_stream_frame"),
    (QuicConnection, "_write_stop_sending_frame"),
    (QuicConnection, "_write_stream_limits"),
    (QuicConnection, "change_connection_id"),
    (QUIC._host_cids[0], "cid"),
    (QUIC._network_paths[0], "can_send"),
    (QUIC._network_paths[0], "is_validated"),
    (QuicPacketBuilder, "start_frame"),
    (RECOVERY, "_cc"),
    (RECOVERY, "_pacer"),
    (RECOVERY, "_pto_count"),
    (RECOVERY, "_rtt_first_sample_time"),
    (RECOVERY, "_rtt_initial"),
    (RECOVERY, "_rtt_initialized"),
    (RECOVERY, "_rtt_latest"),
    (RECOVERY, "_rtt_min"),
    (RECOVERY, "_rtt_smoothed"),
    (RECOVERY, "_rtt_variance"),
    (RECOVERY, "_time_of_last_sent_ack_eliciting_packet"),
    (RECOVERY, "handshake_confirmed"),
    (RECOVERY, "spaces"),
    (recovery.QuicPacketRecovery, "_get_loss_space"),
    (recovery.QuicPacketRecovery, "_on_packets_lost"),
    (recovery.QuicPacketRecovery, "get_loss_detection_time"),
    (recovery.QuicPacketRecovery, "get_probe_timeout"),
    (recovery.QuicPacketRecovery, "on_ack_received"),
    (recovery.QuicPacketRecovery, "on_loss_detection_timeout"),
    (recovery.QuicPacketRecovery, "reschedule_data"),
    (recovery, "K_MICRO_SECOND"),
    (RECOVERY._pacer, "_max_datagram_size"),
    (RECOVERY._pacer, "bucket_max"),
    (RECOVERY._pacer, "bucket_time"),
    (RECOVERY._pacer, "packet_time"),
    (recovery.QuicPacketPacer, "update_rate"),
    (base, "K_INITIAL_WINDOW"),
    (base.QuicCongestionControl, "on_packet_acked"),
    (base.QuicCongestionControl, "on_packet_sent"),
    (base.QuicCongestionControl, "on_packets_expired"),
    (base.QuicCongestionControl, "on_packets_lost"),
    (base.QuicCongestionControl, "on_persistent_congestion"),
    (base.QuicCongestionControl, "on_rtt_measurement"),
    (SPACE, "ack_at"),
    (SPACE, "ack_eliciting_in_flight"),
    (SPACE, "ack_queue"),
    (SPACE, "is_application_data"),
    (SPACE, "largest_received_packet"),
    (SPACE, "loss_time"),
    (SPACE, "received_packets"),
    (SPACE, "sent_packets"),
    (SPACE.received_packets, "_size"),
    (STREAM, "is_blocked"),
    (STREAM, "max_stream_data_local"),
    (STREAM, "max_stream_data_local_sent"),
    (STREAM.receiver, "highest_offset"),
    (STREAM.receiver, "is_finished"),
    (STREAM.sender, "_buffer"),
    (STREAM.sender, "is_finished"),
    (QUIC.tls, "_peer_certificate"),
    (QUIC.tls, "_peer_certificate_chain"),
    (QUIC.tls, "_request_client_certificate"),
    (QUIC.tls, "session_resumed"),
    (tls, "Alert"),
    (tls.AlertDescription, "unknown_psk_identity"),
]


def name(internal: Internal) -> str:
    owner, attribute = internal
    return f"{getattr(owner, '__name__', type(owner).__name__)}.{attribute}"


@pytest.mark.parametrize("internal", AIOQUIC_BY_PEERS, ids=name)
def test_what_the_peers_rely_on_is_there(internal: Internal) -> None:
    owner, attribute = internal
    assert hasattr(owner, attribute)


def test_a_sent_packet_is_what_the_former_path_keeps() -> None:
    fields = {field.name for field in dataclasses.fields(QuicSentPacket)}
    assert fields >= {
        "delivery_handlers",
        "in_flight",
        "is_ack_eliciting",
        "packet_number",
        "sent_time",
    }


def test_a_limit_is_raised_by_assignment_alone() -> None:
    # GrantedLimit stands in for it, and ignores what aioquic assigns.
    limit = connection.Limit(0x10, "max_data", 5)
    assert vars(limit) == {
        "frame_type": 0x10,
        "name": "max_data",
        "sent": 5,
        "used": 0,
        "value": 5,
    }
