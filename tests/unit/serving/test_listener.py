"""The address is taken before the model is loaded, and used after."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from mlflow_istio.errors import NotReady
from mlflow_istio.serving.listener import bind, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_are_known_to_asyncio_as_tcp(host):
    """Asyncio sets TCP_NODELAY only then; without it each answer takes 40 ms more."""
    with closing(bind(host, 0)) as listener:
        listen(listener)
        with closing(socket.create_connection(listener.getsockname()[:2])), closing(listener.accept()[0]) as accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_nobody_is_answered_before_the_model_is_loaded():
    with closing(bind("127.0.0.1", 0)) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname())


def test_of_two_servers_that_load_at_the_same_time_the_second_is_told_at_the_end():
    with closing(bind("127.0.0.1", 0)) as first:
        address = first.getsockname()
        with closing(bind(*address)) as second:
            listen(first)
            with pytest.raises(NotReady, match=f"can't listen on 127.0.0.1 port {address[1]}: Address already in use"):
                listen(second)


def test_a_taken_port_is_told_at_the_start():
    with closing(bind("127.0.0.1", 0)) as first:
        listen(first)
        with pytest.raises(NotReady, match="Address already in use"):
            bind(*first.getsockname())
