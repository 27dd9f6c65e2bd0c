"""The connection IDs of one connection: derived and registered ones only, and routes to them."""

import os
from typing import Any

from aioquic.quic.connection import QuicConnectionId, QuicConnectionState

from ..connection import Routes
from ..connection_ids import ConnectionIdSource
from .flow import FlowControlledConnection
from .parts import TransportSettings

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

    # Overridden

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
