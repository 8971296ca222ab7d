"""What programs can find out about compiled classes, and set on them."""

import inspect

import pytest

from tests.wsproto_fast.helpers import frame
from wsproto_fast import (
    ClientProtocol,
    Extension,
    PerMessageDeflate,
    Protocol,
    ServerProtocol,
    Side,
    State,
)
from wsproto_fast.exceptions import InvalidState
from wsproto_fast.uri import parse_uri


@pytest.mark.parametrize(
    "class_, signature",
    [
        (Protocol, f"(side, *, state={State.OPEN!r}, max_size=1048576, logger=None)"),
        (
            ClientProtocol,
            "(uri, *, origin=None, extensions=None, subprotocols=None, "
            f"state={State.CONNECTING!r}, max_size=1048576, logger=None)",
        ),
        (
            ServerProtocol,
            "(*, origins=None, extensions=None, subprotocols=None, select_subprotocol=None, "
            f"state={State.CONNECTING!r}, max_size=1048576, logger=None, check_host=False, "
            "server_header=None)",
        ),
        (
            PerMessageDeflate,
            "(remote_no_context_takeover, local_no_context_takeover, remote_max_window_bits, "
            "local_max_window_bits, compress_settings=None, *, backend=None, min_size=32)",
        ),
        (Extension, "()"),
    ],
)
def test_signature_and_documentation(class_: type, signature: str) -> None:
    assert str(inspect.signature(class_)) == signature
    assert class_.__doc__ is not None
    assert class_.__doc__.strip()[0] not in "-("
    assert "--" not in class_.__doc__


def test_defaults_are_those_of_the_signatures() -> None:
    engines = [Protocol(Side.SERVER), ClientProtocol(parse_uri("ws://host/")), ServerProtocol()]
    for engine in engines:
        parameters = inspect.signature(type(engine)).parameters
        assert engine.state is parameters["state"].default
        assert engine.max_size == parameters["max_size"].default


def test_subclass_with_its_own_constructor() -> None:
    class Own(ServerProtocol):
        def __init__(self, answer: int) -> None:
            super().__init__()

    class Same(ServerProtocol):
        pass

    assert list(inspect.signature(Own).parameters) == ["answer"]
    assert inspect.signature(Same) == inspect.signature(ServerProtocol)


class TestExtension:
    def test_is_the_base_of_compression(self) -> None:
        assert Extension in PerMessageDeflate.__mro__

    def test_methods_are_for_subclasses(self) -> None:
        class Nothing(Extension):
            pass

        for method in (Nothing().encode, Nothing().decode):
            with pytest.raises(NotImplementedError, match=r"extensions have their own (en|de)code"):
                method(None)


class TestState:
    """Servers that do the opening or the closing themselves set the state."""

    def test_closed(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.set_timeouts(ping_interval=1)
        protocol.state = State.CLOSED
        assert protocol.state is State.CLOSED
        assert protocol.next_timeout() is None
        protocol.receive_data(frame(Side.SERVER, 1, b"late"))
        assert protocol.events_received() == []
        with pytest.raises(InvalidState):
            protocol.send_text("too late")

    def test_open(self) -> None:
        protocol = ServerProtocol()
        protocol.state = State.OPEN
        protocol.receive_data(frame(Side.SERVER, 1, b"hello"))
        assert [frame.data for frame in protocol.events_received()] == [b"hello"]
        protocol.send_text("hello")
        assert protocol.data_to_send() == [b"\x81\x05hello"]

    def test_open_after_early_data(self) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(
            b"GET / HTTP/1.1\r\nHost: host\r\n\r\n" + frame(Side.SERVER, 1, b"hello")
        )
        protocol.events_received()
        protocol.state = State.OPEN
        assert [frame.data for frame in protocol.events_received()] == [b"hello"]

    def test_closing(self) -> None:
        protocol = Protocol(Side.SERVER)
        protocol.state = State.CLOSING
        with pytest.raises(InvalidState, match="connection is closing"):
            protocol.send_text("too late")
        assert protocol.close_expected()

    def test_bad_value(self) -> None:
        protocol = Protocol(Side.SERVER)
        with pytest.raises(ValueError, match="7"):
            protocol.state = 7
        assert protocol.state is State.OPEN
