"""Sockets of Services."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from flash_operator.local.listeners import Listeners, PortInUseError, free_ports, require_free


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    listeners = Listeners()
    yield listeners
    listeners.close_except(())


def test_a_port_in_use_names_the_process_and_the_remedy(busy_port: int) -> None:
    with pytest.raises(PortInUseError) as refused:
        require_free(busy_port)
    message = str(refused.value)
    assert f"port {busy_port} on 127.0.0.1 is in use by" in message
    assert f"(pid {os.getpid()})" in message
    assert "spec.endpoint.port" in message


def test_a_socket_is_bound_once_and_stays_until_it_is_not_wanted(listeners: Listeners) -> None:
    (port,) = free_ports(1, ())
    first = listeners.open(port)
    assert listeners.open(port) == first
    listeners.close_except({port})
    with pytest.raises(PortInUseError):
        require_free(port)
    listeners.close_except(())
    require_free(port)


def test_a_client_that_comes_before_the_server_waits_instead_of_being_refused(listeners: Listeners) -> None:
    (port,) = free_ports(1, ())
    listeners.open(port)
    with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
        client.sendall(b"x")


def test_free_ports_differ_and_avoid_those_taken() -> None:
    first = free_ports(2, ())
    assert len(set(first)) == 2
    assert not set(free_ports(2, first)) & set(first)


def test_the_search_for_ports_begins_where_it_is_told_and_goes_round() -> None:
    assert free_ports(1, (), start=100) != free_ports(1, (), start=200)
    assert len(free_ports(3, (), start=11_999)) == 3
