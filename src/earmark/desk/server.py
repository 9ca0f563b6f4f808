"""The process that serves the review desk."""

import logging
import os
import socket

import uvicorn

from earmark.desk.accounts import accounts
from earmark.desk.app import create_app
from earmark.errors import EarmarkError
from earmark.record import database
from earmark.settings import Settings

logger = logging.getLogger(__name__)

#: Whose word about the client's address and the use of TLS is taken: a proxy on this machine.
_PROXIES = "127.0.0.1,::1"


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
            log_config=None,
            access_log=False,  # the database has who saw what
            server_header=False,
            forwarded_allow_ips=_PROXIES,
            timeout_graceful_shutdown=10,
        )
    )
    server.run(sockets=[listener])
