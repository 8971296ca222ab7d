"""``connect`` as all front-ends have it: addresses, TLS, proxies, failures."""

import importlib
import logging
import ssl
from typing import Any

import pytest

import wsapi.asyncio.client as asyncio_client
import wsapi.sync.client as sync_client
import wsapi.trio.client as trio_client
from wsapi._shared.client import BaseConnect, ClientSide, TransportNames, unix_arguments
from wsapi._shared.connection import _FOREIGN_METHODS
from wsapi._shared.options import CLIENT_OPTIONS, defaults
from wsapi.proxy import parse_proxy
from wsapi.uri import parse_uri

URI = "ws://example.org/"


class Connect(BaseConnect[ClientSide]):
    names = TransportNames(
        ready="stream",
        places=("address",),
        tls=("ssl", "server_hostname"),
        tcp=frozenset({"local"}),
    )


class StrictConnect(BaseConnect[ClientSide]):
    names = TransportNames("sock", ("host", "port"), ("ssl", "server_hostname"), frozenset())
    ssl_optional = False


def connector(uri: str = URI, kind: type[BaseConnect[ClientSide]] = Connect, **options: Any) -> Any:
    return kind(uri, defaults(CLIENT_OPTIONS) | options, ClientSide)


class TestConnect:
    def test_address(self) -> None:
        assert connector()._address(parse_uri(URI)) == ("example.org", 80)
        assert connector(address=("::1", 5))._address(parse_uri(URI)) == ("::1", 5)
        assert connector(kind=StrictConnect, port=5)._address(parse_uri(URI)) == ("example.org", 5)

    @pytest.mark.parametrize("address", ["a", ("a",), ("a", "b"), (1, 2), ("a", 70000)])
    def test_wrong_address(self, address: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            connector(address=address)

    def test_tls(self) -> None:
        context = ssl.create_default_context()
        secure = parse_uri("wss://example.org/")
        assert connector()._tls(parse_uri(URI)) is None
        given = connector("wss://example.org/", ssl=context)
        assert given._tls(secure) == {"ssl": context, "server_hostname": "example.org"}
        default = connector("wss://example.org/", ssl=None, server_hostname="other")
        options = default._tls(secure)
        assert options["server_hostname"] == "other"
        assert options["ssl"] is default._tls(secure)["ssl"]  # made once

    def test_no_tls(self) -> None:
        with pytest.raises(ValueError, match="ssl=None is incompatible with a wss:// URI"):
            connector("wss://example.org/", StrictConnect, ssl=None)
        with pytest.raises(ValueError, match="ssl argument is incompatible with a ws:// URI"):
            connector(ssl=ssl.create_default_context())
        with pytest.raises(TypeError, match="ssl must be an SSLContext or True, not str"):
            connector("wss://example.org/", ssl="yes")

    def test_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://proxy.test:1")
        uri = parse_uri(URI)
        assert connector()._select_proxy(uri) == parse_proxy("http://proxy.test:1")
        assert connector(proxy=None)._select_proxy(uri) is None
        assert connector(path="x")._select_proxy(uri) is None
        assert connector(stream=object())._select_proxy(uri) is None
        with pytest.raises(ValueError, match=r"proxy_ssl .* an http:// proxy"):
            connector(proxy_ssl=True)._select_proxy(uri)
        with pytest.raises(TypeError, match="proxy must be a URL, True or None"):
            connector(proxy=False)

    def test_proxy_tls(self) -> None:
        proxy = parse_proxy("https://proxy.test:1")
        context = ssl.create_default_context()
        options = connector(proxy_ssl=context)._proxy_tls(proxy)
        assert options == {"ssl": context, "server_hostname": "proxy.test"}
        assert connector()._proxy_tls(parse_proxy("http://proxy.test:1")) is None

    def test_uri_may_change(self) -> None:
        changed = connector()
        changed.uri = "wss://example.com/a"
        assert changed.ws_uri == parse_uri("wss://example.com/a")
        changed.ws_uri = parse_uri("ws://example.net/b")
        assert changed._target.request() == (parse_uri("ws://example.net/b"), None)

    def test_two_places(self) -> None:
        with pytest.raises(ValueError, match="stream is incompatible with address and path"):
            connector(stream=object(), address=("a", 1))
        with pytest.raises(ValueError, match="sock is incompatible with host, port and path"):
            connector(URI, StrictConnect, sock=object(), port=1)

    def test_engine(self) -> None:
        made = connector(origin="http://a", max_size=7)
        connection = made._new_connection(parse_uri(URI))
        protocol = connection.protocol
        assert (protocol.origin, protocol.max_size) == ("http://a", 7)
        assert type(connection) is ClientSide

    def test_failures_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        made = connector(reconnect_delays=lambda: iter([1.5]))
        assert made._failed(made._reconnection(), OSError("gone")) == 1.5
        assert [record.getMessage() for record in caplog.records] == [
            "connect failed; reconnecting in 1.5 seconds: OSError: gone"
        ]

    def test_gate_key(self) -> None:
        uri = parse_uri(URI)
        assert connector(proxy=None)._gate_key(uri) is None
        assert connector(path="x")._gate_key(uri) == "example.org"
        assert connector(proxy="http://proxy.test:1")._gate_key(uri) == "example.org"

    def test_connection_of_the_context(self) -> None:
        made = connector()
        with pytest.raises(AttributeError, match="no connection before the context is entered"):
            made.connection  # noqa: B018 # a property
        made._connection = ClientSide(made._engine_class(parse_uri(URI)))
        assert made.connection is made._connection

    @pytest.mark.parametrize("name", ["ssl_handshake_timeout", "proxy_ssl_shutdown_timeout"])
    @pytest.mark.parametrize("value", [0, -1.5])
    def test_timeouts_of_tls(self, name: str, value: float) -> None:
        uri, proxy = "wss://example.org/", "https://proxy.test:1"
        asyncio_client.connect(uri, proxy=proxy, **{name: 5.0})  # type: ignore[arg-type] # a name
        with pytest.raises(ValueError, match=f"{name} must be positive or None; got {value}"):
            asyncio_client.connect(uri, proxy=proxy, **{name: value})  # type: ignore[arg-type] # a name

    def test_one_connecting(self) -> None:
        with pytest.raises(TypeError, match="one_connecting must be a bool, not int"):
            connector(one_connecting=1)

    def test_extensions(self) -> None:
        """Compression is one of them, unless it isn't wanted."""
        for compression, offered in (("deflate", "permessage-deflate"), (None, None)):
            made = connector(compression=compression)
            protocol = made._new_connection(parse_uri(URI)).protocol
            header = protocol.connect().headers.get("Sec-WebSocket-Extensions")
            assert (header and header.partition(";")[0]) == offered

    def test_unix(self) -> None:
        assert unix_arguments("x", None, {}) == "ws://localhost/"
        assert unix_arguments("x", None, {"ssl": True}) == "wss://localhost/"
        assert unix_arguments(None, URI, {"stream": 1}, "stream") == URI
        with pytest.raises(ValueError, match="missing path argument"):
            unix_arguments(None, None, {})
        with pytest.raises(ValueError, match="path and stream arguments are incompatible"):
            unix_arguments("x", None, {"stream": 1}, "stream")


class TestForeignOverrides:
    """What programs override or change in `websockets`, and nothing here would call or read."""

    @pytest.mark.parametrize(
        ("base", "name"),
        [
            (asyncio_client.connect, "open_tcp_connection"),
            (asyncio_client.connect, "connect"),
            (sync_client.reconnect, "open_socket"),
            (sync_client.reconnect, "enable_tls"),
            (trio_client.connect, "open_tcp_stream"),
            (trio_client.connect, "enable_tls"),
            (asyncio_client.ClientConnection, "data_received"),
            (sync_client.ClientConnection, "recv_events"),
            (trio_client.ClientConnection, "close_stream"),
            (trio_client.ClientConnection, "keepalive"),
        ],
    )
    def test_methods(self, base: type, name: str) -> None:
        with pytest.raises(TypeError, match=rf"Mine\.{name}\(\) isn't called"):
            type("Mine", (base,), {name: lambda *args: None})

    @pytest.mark.parametrize(
        ("base", "name"),
        [
            (asyncio_client.connect, "open_connection"),
            (sync_client.reconnect, "open_tcp_connection"),
            (trio_client.connect, "open_socket"),
            (asyncio_client.ClientConnection, "pause_reading"),
            (asyncio_client.ClientConnection, "close_socket"),
            (sync_client.ClientConnection, "drain"),
            (sync_client.ClientConnection, "data_received"),
            (trio_client.ClientConnection, "drain"),
            (asyncio_client.ClientConnection, "send"),
            (asyncio_client.connect, "process_redirect"),
            (asyncio_client.connect, "mine"),
        ],
    )
    def test_other_methods(self, base: type, name: str) -> None:
        """What is in the classes of another front-end only is a program's own here."""
        type("Mine", (base,), {name: lambda *args: None})

    def test_methods_of_other_bases(self) -> None:
        """The program calls these itself, through what it inherits them from."""

        class Mixin:
            def connect(self) -> str:
                return "mixed"

        class Mine(Mixin, asyncio_client.connect):
            def connect(self) -> str:
                return "mine"

        assert Mine(URI).connect() == "mine"

    @pytest.mark.parametrize(
        ("base", "name", "other"),
        [
            (asyncio_client.connect, "factory", "ssl"),
            (sync_client.reconnect, "ssl", "stream"),
            (trio_client.connect, "stream", "sock"),
        ],
    )
    def test_settings(self, base: Any, name: str, other: str) -> None:
        connector = base(URI)
        with pytest.raises(AttributeError, match=f"{name} can't be changed any more"):
            setattr(connector, name, None)
        setattr(connector, other, 1)
        connector.mine = 1

    @pytest.mark.parametrize("package", ["asyncio", "sync", "trio"])
    def test_names(self, package: str) -> None:
        """Every name that is refused is one that `websockets` has there."""
        ours = importlib.import_module(f"wsapi.{package}.client")
        theirs = importlib.import_module(f"websockets.{package}.client")
        name = "reconnect" if package == "sync" else "connect"
        connector, connection = getattr(ours, name), ours.ClientConnection
        assert connector._foreign_methods <= set(dir(getattr(theirs, name)))
        refused = _FOREIGN_METHODS | connection._foreign_methods
        assert refused <= set(dir(theirs.ClientConnection))
        if package != "trio":  # whose class needs an event loop that runs
            assert connector._foreign_settings <= vars(getattr(theirs, name)(URI)).keys()
