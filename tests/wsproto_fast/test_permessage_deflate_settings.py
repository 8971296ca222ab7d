"""What is set up for permessage-deflate: arguments of the factories, and what follows from them."""

import pytest

from wsproto_fast import PerMessageDeflate
from wsproto_fast.backends import available_backends
from wsproto_fast.extensions import ClientExtensionFactory, Extension, ServerExtensionFactory
from wsproto_fast.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
    enable_client_permessage_deflate,
    enable_server_permessage_deflate,
)

from .negotiation_helpers import BITS, FACTORIES, NAME, OtherFactory, answer_of, wire

# Arguments


BAD_BITS = (-1, 0, 1, 7, 16, 17, False, "12", 12.0)


@pytest.mark.parametrize(
    "factory, argument, good, bad",
    [
        (
            ClientPerMessageDeflateFactory,
            "server_max_window_bits",
            (None, *BITS),
            (True, *BAD_BITS),
        ),
        (
            ClientPerMessageDeflateFactory,
            "client_max_window_bits",
            (None, True, *BITS[1:]),
            (8, *BAD_BITS),
        ),
        (
            ServerPerMessageDeflateFactory,
            "server_max_window_bits",
            (None, *BITS[1:]),
            (8, True, *BAD_BITS),
        ),
        (
            ServerPerMessageDeflateFactory,
            "client_max_window_bits",
            (None, *BITS),
            (True, *BAD_BITS),
        ),
    ],
)
def test_window_bits(factory, argument, good, bad):
    for value in good:
        assert getattr(factory(**{argument: value}), argument) is value
    for value in bad:
        with pytest.raises(ValueError, match=argument):
            factory(**{argument: value})


@pytest.mark.parametrize("factory", FACTORIES)
def test_compress_settings(factory):
    assert factory().compress_settings is None
    settings = {"level": 9, "memLevel": 4}
    for backend in (None, "zlib"):
        given = factory(compress_settings=settings, backend=backend)
        assert given.compress_settings == settings
        assert negotiated(given).compress_settings == settings
    with pytest.raises(ValueError, match="wbits"):
        factory(compress_settings={"wbits": -12})
    # Found here, not when the first message is sent.
    with pytest.raises(TypeError):
        factory(compress_settings={"window": 12})
    with pytest.raises(ValueError):
        factory(compress_settings={"level": 100})


@pytest.mark.parametrize("factory", FACTORIES)
def test_backend(factory):
    assert factory().backend is None
    for name in available_backends():
        extension = negotiated(factory(backend=name))
        assert extension.backend.name == name
        assert extension.backend.new_compressor(15, extension.compress_settings)
    with pytest.raises(ValueError, match="backend"):
        factory(backend="paper")


@pytest.mark.parametrize("factory", FACTORIES)
def test_settings_reach_the_extension(factory):
    settings = {"level": 3, "memLevel": 4}
    extension = negotiated(factory(compress_settings=settings, backend="zlib", min_size=100))
    assert extension.compress_settings == settings
    assert extension.min_size == 100
    assert negotiated(factory()).min_size == PerMessageDeflate(False, False, 15, 15).min_size


def negotiated(factory):
    if isinstance(factory, ClientExtensionFactory):
        return factory.process_response_params([], [])
    return factory.process_request_params([], [])[1]


@pytest.mark.parametrize("client_off, server_off", [(True, False), (False, True), (True, True)])
def test_no_context_takeover_at_all(client_off, server_off):
    client = ClientPerMessageDeflateFactory(context_takeover=not client_off)
    server = ServerPerMessageDeflateFactory(context_takeover=not server_off)
    answer, at_server = server.process_request_params(client.get_request_params(), [])
    at_client = client.process_response_params(answer, [])
    for extension in (at_server, at_client):
        assert extension.remote_no_context_takeover
        assert extension.local_no_context_takeover


def test_required_limit_needs_a_value():
    with pytest.raises(ValueError, match="client_max_window_bits"):
        ServerPerMessageDeflateFactory(require_client_max_window_bits=True)


def test_arguments_by_position():
    settings = {"memLevel": 4}
    client = ClientPerMessageDeflateFactory(True, True, 10, 11, settings)
    assert client.get_request_params() == wire(True, True, 10, 11)
    assert client.compress_settings == settings
    server = ServerPerMessageDeflateFactory(True, True, 10, 11, settings, True)
    assert server.require_client_max_window_bits is True
    assert answer_of(server, []) is None
    assert answer_of(server, wire(False, False, None, True))[0] == wire(True, True, 10, 11)


def test_classes():
    assert issubclass(PerMessageDeflate, Extension)
    assert isinstance(negotiated(ServerPerMessageDeflateFactory()), Extension)
    assert issubclass(ClientPerMessageDeflateFactory, ClientExtensionFactory)
    assert issubclass(ServerPerMessageDeflateFactory, ServerExtensionFactory)
    for cls in (PerMessageDeflate, *FACTORIES):
        assert cls.name == NAME


def test_base_classes_do_nothing():
    with pytest.raises(NotImplementedError):
        Extension().decode(None)
    with pytest.raises(NotImplementedError):
        Extension().encode(None)
    with pytest.raises(NotImplementedError):
        ClientExtensionFactory().get_request_params()
    with pytest.raises(NotImplementedError):
        ClientExtensionFactory().process_response_params([], [])
    with pytest.raises(NotImplementedError):
        ServerExtensionFactory().process_request_params([], [])


# Defaults


@pytest.mark.parametrize(
    "enable, factory",
    [
        (enable_client_permessage_deflate, ClientPerMessageDeflateFactory),
        (enable_server_permessage_deflate, ServerPerMessageDeflateFactory),
    ],
)
def test_enable(enable, factory):
    for given in (None, [], ()):
        (added,) = enable(given)
        assert type(added) is factory
        assert added.backend is added.compress_settings is None  # those of the backend
    extensions = [OtherFactory()]
    first, added = enable(extensions)
    assert (first, type(added)) == (extensions[0], factory)
    assert len(extensions) == 1
    own = factory(server_no_context_takeover=True)
    assert list(enable([own, *extensions])) == [own, *extensions]
