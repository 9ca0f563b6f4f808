"""The process that serves the review desk."""

import asyncio
import logging
import os
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from earmark.desk.accounts import accounts
from earmark.desk.app import create_app
from earmark.errors import EarmarkError
from earmark.record import database
from earmark.settings import Settings

logger = logging.getLogger(__name__)

#: Whose word about the client's address and the use of TLS is taken: a proxy on this machine.
_PROXIES = "127.0.0.1,::1"


#: So long a request's head may take, in seconds, from its first byte or the connection's begin.
HEAD_SECONDS = 10.0


class _Impatient(H11Protocol):
    """Closes connections whose request does not come; uvicorn limits only the pause between two."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def serve(settings: Settings, conninfo: str) -> None:
    """Serve the review desk until the process is told to end.

    Args:
        settings: The configuration.
        conninfo: As :func:`earmark.record.database.connection_string` returns it.

    Raises:
        EarmarkError: the database can't be reached or lacks the schema, or the address is taken.
    """
    with database.connect(conninfo) as connection:
        database.require_schema(connection)
        if not any(account.active for account in accounts(connection)):
            logger.warning("nobody can sign in yet; make an account: earmark reviewer add NAME")
    address, port = settings.desk.address, settings.desk.port
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family)
    except OSError as error:
        raise EarmarkError(
            f"can't listen on {address}, port {port}: {os.strerror(error.errno or 0)}; choose "
            "another desk.port or desk.address, or end what listens there"
        ) from error
    host = f"[{address}]" if ":" in address else address
    logger.info("the review desk is at http://%s:%d", host, listener.getsockname()[1])
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, conninfo),
            http=_Impatient,
            log_config=None,
            access_log=False,  # the database has who saw what
            server_header=False,
            forwarded_allow_ips=_PROXIES,
            timeout_graceful_shutdown=10,
        )
    )
    server.run(sockets=[listener])
