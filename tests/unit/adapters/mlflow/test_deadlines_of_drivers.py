"""Every engine that MLflow makes for us has its driver's limits; what the address says stays."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.exc

from mlflow_istio.adapters.mlflow.deadlines_of_drivers import LIMITS, given_to_new_engines, limit


class Driver:
    """A driver in place of one that isn't installed here: it notes what it is asked to connect with, and can't.

    Modelled on the names that SQLAlchemy's dialects look up in PyMySQL, mysqlclient, pymssql, pyodbc and psycopg2.
    """

    paramstyle = "format"
    version = "5.0.0"
    __version__ = "5.0.0"
    version_info = (2, 0, 0)
    Binary = bytes
    Error = DatabaseError = InterfaceError = InternalError = OperationalError = ProgrammingError = ConnectionError
    Cursor = object
    NUMBER = STRING = BINARY = DATETIME = ROWID = None

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def connect(self, *_arguments: Any, **named: Any) -> Any:
        self.asked = named
        raise ConnectionError("nobody there")


def connected_with(address: str) -> dict[str, Any]:
    driver = Driver()
    engine = sqlalchemy.create_engine(address, module=driver)
    limit(engine)
    with pytest.raises((sqlalchemy.exc.SQLAlchemyError, ConnectionError)):
        engine.connect()
    return {name: value for name, value in driver.asked.items() if "timeout" in name}


@pytest.mark.parametrize(
    ("address", "limits"),
    [
        ("mysql+pymysql://ada@127.0.0.1/m", {"connect_timeout": 10, "read_timeout": 30, "write_timeout": 30}),
        ("mysql://ada@127.0.0.1/m", {"connect_timeout": 10, "read_timeout": 30, "write_timeout": 30}),
        (
            "mysql+pymysql://ada@127.0.0.1/m?read_timeout=5",
            {"connect_timeout": 10, "read_timeout": 5, "write_timeout": 30},
        ),
        ("mssql+pymssql://ada@127.0.0.1/m", {"login_timeout": 10, "timeout": 30}),
        ("mssql+pyodbc://ada@127.0.0.1/m?driver=x", {"timeout": 10}),
    ],
)
def test_a_driver_is_asked_to_connect_with_its_limits(address: str, limits: dict[str, int]) -> None:
    assert connected_with(address) == limits


@pytest.mark.parametrize(("query", "milliseconds"), [("", 30000), ("?tcp_user_timeout=5000", "5000")])
def test_postgresql_is_asked_with_the_limits_of_tcp(
    query: str, milliseconds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy looks at the driver's own modules here, so they are stood in for, too."""
    stand_in = ModuleType("psycopg2")
    for name in ("extras", "extensions"):
        module = ModuleType(f"psycopg2.{name}")
        setattr(stand_in, name, module)
        monkeypatch.setitem(sys.modules, f"psycopg2.{name}", module)
    monkeypatch.setitem(sys.modules, "psycopg2", stand_in)
    assert connected_with(f"postgresql+psycopg2://ada@127.0.0.1/m{query}") == {"tcp_user_timeout": milliseconds}


def test_sqlite_is_asked_as_before() -> None:
    assert sqlalchemy.create_engine("sqlite://").dialect.driver not in LIMITS


def test_engines_that_mlflow_makes_meanwhile_have_them_and_no_others() -> None:
    made = []

    def make(address: str) -> Any:
        made.append(sqlalchemy.create_engine(address, module=Driver()))
        return made[-1]

    stores = SimpleNamespace(create_sqlalchemy_engine=make)
    with given_to_new_engines(stores):
        stores.create_sqlalchemy_engine("mysql+pymysql://ada@127.0.0.1/m")
    assert stores.create_sqlalchemy_engine is make
    stores.create_sqlalchemy_engine("mysql+pymysql://ada@127.0.0.1/m")
    for engine in made:
        with pytest.raises((sqlalchemy.exc.SQLAlchemyError, ConnectionError)):
            engine.connect()
    assert ["read_timeout" in engine.dialect.loaded_dbapi.asked for engine in made] == [True, False]


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1]
        for connection in taken:
            connection.close()


def test_a_mysql_that_says_nothing_is_given_up(silent: int) -> None:
    pytest.importorskip("pymysql")
    engine = sqlalchemy.create_engine(f"mysql+pymysql://ada:x@127.0.0.1:{silent}/m?read_timeout=1")
    limit(engine)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="timed out"):
        engine.connect()
