"""The connection IDs of one connection: derived and registered ones only, and routes to them."""

import os
from typing import Any

from aioquic.quic.connection import QuicConnectionId, QuicConnectionState

from ..connection import Routes
from ..connection_ids import ConnectionIdSource
from .flow import FlowControlledConnection
from .parts import TransportSettings

RETIRE_AFTER_S = 1.0
"""Seconds after a switch in which packets with the former connection ID may still arrive."""

_CONNECTION_IDS = 8
"""At most so many per side (RFC 9000 §5.1.1), as far as the other end takes them."""


class RoutedConnection(FlowControlledConnection):
    """A connection that issues the connection IDs of a source, and says so to its routes."""

    def __init__(
        self, settings: TransportSettings, connection_ids: ConnectionIdSource, **arguments: Any
    ) -> None:
        """:raises ValueError: if no connection ID is left to take."""
        super().__init__(settings, **arguments)
        self._connection_ids = connection_ids
        self._routes: Routes | None = None
        self._routed: set[bytes] = set()
        # Destination connection IDs that are no longer used, and when each is to be retired.
        self._old_ids: list[tuple[float, QuicConnectionId]] = []
        self._take_first_connection_id()

    def follow_routes(self, routes: Routes) -> None:
        """Tell `routes` the connection IDs that lead here, now and whenever they change."""
        self._routes = routes
        self._update_routes()

    def leave_routes(self) -> None:
        """The connection is no more: nothing leads here."""
        if self._routes is not None:
            for connection_id in self._routed:
                self._routes.discard(connection_id)
        self._routes = None
        self._routed.clear()

    def issue_connection_ids(self) -> None:
        """Issue those that the source did not have before: more were registered since."""
        if self._handshake_complete and self._state is QuicConnectionState.CONNECTED:
            self._replenish_connection_ids()

    def take_fresh_connection_id(self, now: float) -> bool:
        """Use another destination connection ID from now on (RFC 9000 §9.5); False: none is left.

        The former one is retired a little later: packets that carry it may be under way, and the
        other end drops them when it has heard that it is retired.
        """
        if not self._peer_cid_available:
            return False
        self._old_ids.append((now + RETIRE_AFTER_S, self._peer_cid))
        self._consume_peer_cid()
        return True

    def retire_old_connection_ids(self, now: float) -> None:
        """Retire what `take_fresh_connection_id` has left long enough ago."""
        while self._old_ids and self._old_ids[0][0] <= now:
            self._retire_peer_cid(self._old_ids.pop(0)[1])

    # Overridden

    def change_connection_id(self) -> None:
        """Nothing: aioquic's server would follow each change of the client's by one of its own.

        Packets of two paths arrive mixed, so each change would be followed by many. Here each end
        changes when its own path does, so no connection ID is ever used on two paths.
        """

    def _replenish_connection_ids(self) -> None:
        # Only what is registered: fewer connection IDs do no harm, unroutable ones would.
        wanted = min(_CONNECTION_IDS, self._remote_active_connection_id_limit)
        while len(self._host_cids) < wanted:
            connection_id = self._connection_ids.take()
            if connection_id is None:
                break
            self._host_cids.append(
                QuicConnectionId(
                    cid=connection_id,
                    sequence_number=self._host_cid_seq,
                    stateless_reset_token=os.urandom(16),
                )
            )
            self._host_cid_seq += 1
        self._update_routes()

    # Own

    def _take_first_connection_id(self) -> None:
        connection_id = self._connection_ids.take()
        if connection_id is None:
            raise ValueError("no registered connection ID is left to begin a connection with")
        self._host_cids[0].cid = connection_id
        self.host_cid = connection_id
        self._local_initial_source_connection_id = connection_id

    def _update_routes(self) -> None:
        if self._routes is None:
            return
        current = {each.cid for each in self._host_cids}
        for connection_id in current - self._routed:
            self._routes.add(connection_id)
        for connection_id in self._routed - current:
            self._routes.discard(connection_id)
        self._routed = current
