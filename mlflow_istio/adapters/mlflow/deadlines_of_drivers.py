"""How long a database may say nothing: what SQLAlchemy's drivers take as their limits, set where the address sets none.

MLflow makes the engines, and gives no limit. A driver's own default covers at most the opening of the socket: a MySQL that takes
the connection and says nothing (a frozen server, a firewall that forgets) would keep a caller for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

CONNECT = 10
"""Seconds until a connection must be open."""
SILENCE = 30
"""Seconds that a database may say nothing, in the middle of a query, too. Ours take milliseconds."""

# libpq has no limit of an answer. What it has is TCP's: a host that is gone, or a network that forgets, is noticed after 30 s,
# in the middle of a query, too; a server that stands still on a host that answers is not.
_LIBPQ = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 1000 * SILENCE,
}

LIMITS: Mapping[str, Mapping[str, int]] = {
    # PyMySQL waits for the server's first words, too, as for any answer: for ever, unless it has a read_timeout.
    "pymysql": {"connect_timeout": CONNECT, "read_timeout": SILENCE, "write_timeout": SILENCE},
    "mysqldb": {"connect_timeout": CONNECT, "read_timeout": SILENCE, "write_timeout": SILENCE},
    "mysqlconnector": {"connection_timeout": CONNECT},
    "pymssql": {"login_timeout": CONNECT, "timeout": SILENCE},
    "pyodbc": {"timeout": CONNECT},
    "psycopg2": _LIBPQ,
    "psycopg": _LIBPQ,
}
"""By SQLAlchemy's name of the driver, what its ``connect`` takes; PostgreSQL's read an environment variable for connecting."""

_OF_A_QUERY = ("pyodbc",)
"""Drivers whose limit of a query is an attribute of the connection."""


@contextmanager
def given_to_new_engines(stores: Any) -> Iterator[None]:
    """Give every engine that MLflow makes meanwhile its driver's limits, for as long as it lives.

    Args:
        stores: MLflow's module ``store.db.utils``.
    """
    make: Callable[[str], Any] = stores.create_sqlalchemy_engine

    def limited(address: str) -> Any:
        engine = make(address)
        limit(engine)
        return engine

    stores.create_sqlalchemy_engine = limited
    try:
        yield
    finally:
        stores.create_sqlalchemy_engine = make


def limit(engine: Any) -> None:
    """Give an engine its driver's limits; what its address says itself stays."""
    from sqlalchemy import event

    driver = str(engine.dialect.driver)
    limits = LIMITS.get(driver)
    if limits is None:
        return

    def connecting(_dialect: Any, _record: Any, _arguments: Any, named: dict[str, Any]) -> None:
        for name, seconds in limits.items():
            named.setdefault(name, seconds)

    def connected(connection: Any, _record: Any) -> None:
        connection.timeout = SILENCE

    event.listen(engine, "do_connect", connecting)
    if driver in _OF_A_QUERY:
        event.listen(engine, "connect", connected)
