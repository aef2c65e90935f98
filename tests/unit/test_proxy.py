"""`benchmarks.proxy` between real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

from benchmarks.proxy import Proxy


class Echo(StreamRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(data)


@pytest.fixture
def echo() -> Iterator[int]:
    with ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=60)


def test_it_passes_on_in_both_directions(proxy: Proxy) -> None:
    with connect(proxy) as client:
        for said in (b"one", b"two"):
            client.sendall(said)
            assert client.recv(100) == said


def test_half_open_connections_stand_and_say_nothing(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"before")
        assert client.recv(100) == b"before"
        proxy.swallows = True
        client.sendall(b"swallowed")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxy.swallows = False
        client.settimeout(60)
        client.sendall(b"after")
        assert client.recv(100) == b"after"


def test_connections_that_are_dropped_end_and_new_ones_go_to_another_place(proxy: Proxy) -> None:
    with connect(proxy) as client, socket.create_server(("127.0.0.1", 0)) as other:
        client.sendall(b"a")
        assert client.recv(100) == b"a"
        proxy.upstream = int(other.getsockname()[1])
        proxy.drop()
        assert client.recv(100) == b""
        with connect(proxy) as again:
            accepted, _ = other.accept()
            with accepted:
                again.sendall(b"b")
                assert accepted.recv(100) == b"b"


def test_where_nobody_listens_the_connection_is_closed(proxy: Proxy) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy.upstream = int(unused.getsockname()[1])
        with connect(proxy) as client:
            assert client.recv(100) == b""
