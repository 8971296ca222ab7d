"""Negotiation of permessage-deflate: the grid of offers and answers, both sides."""

import itertools

import pytest
from websockets.client import ClientProtocol as TheirClientProtocol
from websockets.exceptions import NegotiationError as TheirNegotiationError
from websockets.extensions import permessage_deflate as theirs
from websockets.server import ServerProtocol as TheirServerProtocol
from websockets.uri import parse_uri as their_parse_uri

from wsproto_fast import ClientProtocol, PerMessageDeflate, ServerProtocol, State
from wsproto_fast import exceptions as e
from wsproto_fast.extensions import ClientExtensionFactory, Extension, ServerExtensionFactory
from wsproto_fast.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
    enable_client_permessage_deflate,
    enable_server_permessage_deflate,
)
from wsproto_fast.headers import build_extension, parse_extension
from wsproto_fast.uri import parse_uri

from .negotiation_helpers import (
    BITS,
    FACTORIES,
    NAME,
    NAMES,
    Other,
    OtherFactory,
    answer_of,
    outcome,
    wire,
)

FLAGS = (False, True)


def is_valid_answer(params):
    """Tell whether an answer is well formed by itself, as RFC 7692 section 7.1 has it."""
    names = [name for name, _ in params]
    return len(set(names)) == len(names) and all(
        value is None if "takeover" in name else value in {"8", "9", *map(str, range(10, 16))}
        for name, value in params
        if name in NAMES or pytest.fail(f"unknown parameter: {name}")
    )


def fits(offer, answer):
    """Tell whether a client that made the offer may accept the answer."""
    offered, answered = dict(offer), dict(answer)
    # 7.1.1.1: accepted by including it. 7.1.1.2: a hint, which may be left out, or come unasked.
    if "server_no_context_takeover" in offered and "server_no_context_takeover" not in answered:
        return False
    # 7.1.2.1: accepted by including the same or a smaller value; a server may limit itself unasked.
    limit = offered.get("server_max_window_bits")
    if limit is not None and int(answered.get("server_max_window_bits", 16)) > int(limit):
        return False
    # 7.1.2.2: only in answers to offers that have it, and at most the value offered.
    if "client_max_window_bits" in answered:
        if "client_max_window_bits" not in offered:
            return False
        if int(answered["client_max_window_bits"]) > int(offered["client_max_window_bits"] or 15):
            return False
    return True


def can_read(receiver, sender):
    """Tell whether one side can inflate what the other deflates (RFC 7692 section 7.2.2)."""
    return sender.local_max_window_bits <= receiver.remote_max_window_bits and (
        sender.local_no_context_takeover or not receiver.remote_no_context_takeover
    )


def reading_of(factory, answer, accepted=()):
    """Return the outcome, or None if the answer is refused."""
    try:
        return outcome(factory.process_response_params(answer, list(accepted)))
    except (e.NegotiationError, TheirNegotiationError):
        return None


# What the tables of the API say, parameter by parameter.


def limited(configured, received):
    """Return the smaller of the limits that there are."""
    return min(filter(None, (configured, received)), default=None)


def expected_answer(config, require, offer):
    """Return the server's answer, or None if it declines."""
    server_bits = limited(config[2], offer[2])
    if server_bits == 8 or (require and offer[3] is None):
        return None
    if offer[3] is None:
        client_bits = None
    elif offer[3] is True:
        client_bits = config[3]
    else:
        client_bits = limited(config[3], offer[3])
    return config[0] or offer[0], config[1] or offer[1], server_bits, client_bits


def expected_reading(offer, answer):
    """Return the outcome for the client, or None if it refuses."""
    if offer[0] and not answer[0]:
        return None
    if offer[2] is not None and (answer[2] is None or answer[2] > offer[2]):
        return None
    if answer[3] is not None and (
        offer[3] is None or (offer[3] is not True and answer[3] > offer[3])
    ):
        return None
    local_bits = answer[3] or (15 if offer[3] in (None, True) else offer[3])
    return answer[0], offer[1] or answer[1], answer[2] or 15, local_bits


SERVER_CONFIGS = [
    (*config, require)
    for *config, require in itertools.product(FLAGS, FLAGS, (None, *BITS[1:]), (None, *BITS), FLAGS)
    if not require or config[3] is not None
]

OFFERS = list(itertools.product(FLAGS, FLAGS, (None, *BITS), (None, True, *BITS)))

CLIENT_CONFIGS = list(itertools.product(FLAGS, FLAGS, (None, *BITS), (None, True, *BITS[1:])))

ANSWERS = list(itertools.product(FLAGS, FLAGS, (None, *BITS), (None, *BITS)))


@pytest.mark.parametrize("server_bits", [None, *BITS[1:]])
def test_server_answers_whole_grid(server_bits):
    offers = [(offer, wire(*offer)) for offer in OFFERS]
    for *config, require in SERVER_CONFIGS:
        if config[2] != server_bits:
            continue
        factory = ServerPerMessageDeflateFactory(*config, require_client_max_window_bits=require)
        for offer, params in offers:
            expected = expected_answer(config, require, offer)
            if expected is None:
                assert answer_of(factory, params) is None
                continue
            answer, (*flags, remote_bits, local_bits) = answer_of(factory, params)
            assert answer == wire(*expected)
            assert fits(params, answer)
            assert flags == [expected[1], expected[0]]
            assert (remote_bits, local_bits) == (expected[3] or 15, expected[2] or 15)
            assert local_bits >= 9


@pytest.mark.parametrize("server_bits", [None, *BITS])
def test_client_reads_whole_grid(server_bits):
    answers = [(answer, wire(*answer)) for answer in ANSWERS]
    for config in CLIENT_CONFIGS:
        if config[2] != server_bits:
            continue
        factory = ClientPerMessageDeflateFactory(*config)
        offer = factory.get_request_params()
        assert offer == wire(*config)
        for answer, params in answers:
            found = reading_of(factory, params)
            assert found == expected_reading(config, answer)
            assert (found is not None) == fits(offer, params)


def test_both_sides_understand_each_other():
    few = (None, 9, 12, 15)
    servers = [
        ServerPerMessageDeflateFactory(*config)
        for config in itertools.product(FLAGS, FLAGS, few, (*few, 8))
    ]
    for config in itertools.product(FLAGS, FLAGS, (*few, 8), (True, *few)):
        client = ClientPerMessageDeflateFactory(*config)
        offer = client.get_request_params()
        for server in servers:
            try:
                answer, server_extension = server.process_request_params(offer, [])
            except e.NegotiationError:
                assert config[2] == 8
                continue
            assert is_valid_answer(answer)
            assert fits(offer, answer)
            client_extension = client.process_response_params(answer, [])
            assert can_read(client_extension, server_extension)
            assert can_read(server_extension, client_extension)


# The same decisions as other programs are used to.


@pytest.mark.parametrize("flags", list(itertools.product(FLAGS, FLAGS)))
def test_server_agrees_with_websockets(flags):
    few = (None, 9, 12, 15)
    offers = [wire(*offer) for offer in itertools.product(FLAGS, FLAGS, (*few, 8), (True, *few, 8))]
    for config in itertools.product(few, (*few, 8), [None], FLAGS):
        if config[3] and config[1] is None:
            continue
        ours = ServerPerMessageDeflateFactory(*flags, *config)
        other = theirs.ServerPerMessageDeflateFactory(*flags, *config)
        for offer in offers:
            assert answer_of(ours, offer) == answer_of(other, offer)


@pytest.mark.parametrize("flags", list(itertools.product(FLAGS, FLAGS)))
def test_client_agrees_with_websockets(flags):
    few = (None, 9, 12, 15)
    answers = [wire(*answer) for answer in itertools.product(FLAGS, FLAGS, (*few, 8), (*few, 8))]
    for config in itertools.product((*few, 8), (True, *few)):
        ours = ClientPerMessageDeflateFactory(*flags, *config)
        other = theirs.ClientPerMessageDeflateFactory(*flags, *config)
        assert ours.get_request_params() == other.get_request_params()
        for answer in answers:
            if dict(answer).get("client_max_window_bits") == "8":
                continue  # zlib can't do it, which is what they compress with
            assert reading_of(ours, answer) == reading_of(other, answer)


# Parameters that nobody may send


DUPLICATES = [
    [("server_no_context_takeover", None), ("server_no_context_takeover", None)],
    [("client_no_context_takeover", None), ("client_no_context_takeover", None)],
    [("server_max_window_bits", "10"), ("server_max_window_bits", "10")],
    [("server_max_window_bits", "10"), ("server_max_window_bits", "11")],
    [("client_max_window_bits", "10"), ("client_max_window_bits", "10")],
    [("client_max_window_bits", "10"), ("client_max_window_bits", None)],
]

BAD_NAMES = [
    [("x", None)],
    [("x", "10")],
    [("Server_no_context_takeover", None)],
    [("max_window_bits", "10")],
    [("build", None)],
    [("server_no_context_takeover", None), ("", None)],
]

BAD_NUMBERS = [
    *(
        "7",
        "16",
        "0",
        "-8",
        "+9",
        "08",
        "010",
        "0x9",
        "1e1",
        "9.0",
        "9 ",
        "",
        "a",
        "true",
        "\u0669",
    ),
    "9" * 5000,
]

BAD_VALUES = [
    *([(name, value)] for name in NAMES[:2] for value in ("", "0", "1", "true", "10")),
    *([(name, value)] for name in NAMES[2:] for value in BAD_NUMBERS),
    [("server_max_window_bits", None)],
]

MALFORMED = [
    *((params, e.DuplicateParameter) for params in DUPLICATES),
    *((params, e.InvalidParameterName) for params in BAD_NAMES),
    *((params, e.InvalidParameterValue) for params in BAD_VALUES),
]


def short(value):
    return repr(value)[:40] if isinstance(value, list) else None


@pytest.mark.parametrize("params, error", MALFORMED, ids=short)
def test_malformed_offers_are_declined(params, error):
    with pytest.raises(error) as info:
        ServerPerMessageDeflateFactory().process_request_params(params, [])
    assert isinstance(info.value, e.NegotiationError)
    assert info.value.name in dict(params)


@pytest.mark.parametrize(
    "params, error",
    [
        *MALFORMED,
        ([("client_max_window_bits", None)], e.InvalidParameterValue),
        (
            [("client_max_window_bits", None), ("client_max_window_bits", None)],
            e.InvalidParameterValue,
        ),
    ],
    ids=short,
)
def test_malformed_answers_are_refused(params, error):
    with pytest.raises(error):
        ClientPerMessageDeflateFactory().process_response_params(params, [])


def test_client_max_window_bits_may_be_offered_only_once():
    with pytest.raises(e.DuplicateParameter):
        ServerPerMessageDeflateFactory().process_request_params(
            [("client_max_window_bits", None)] * 2, []
        )


def test_parameters_come_in_any_order():
    params = wire(True, True, 10, 11)
    for order in itertools.permutations(params):
        answer, extension = ServerPerMessageDeflateFactory().process_request_params(order, [])
        assert answer == params
        assert outcome(extension) == (True, True, 11, 10)
        client = ClientPerMessageDeflateFactory()
        assert reading_of(client, order) == (True, True, 10, 11)


@pytest.mark.parametrize(
    "offer, answer, message",
    [
        ({"server_no_context_takeover": True}, [], "expected server_no_context_takeover"),
        ({"server_max_window_bits": 10}, [], "expected server_max_window_bits"),
        (
            {"server_max_window_bits": 10},
            [("server_max_window_bits", "11")],
            "unsupported server_max_window_bits",
        ),
        (
            {"client_max_window_bits": None},
            [("client_max_window_bits", "10")],
            "unexpected client_max_window_bits",
        ),
        (
            {"client_max_window_bits": 10},
            [("client_max_window_bits", "11")],
            "unsupported client_max_window_bits",
        ),
        (
            {"client_max_window_bits": 9},
            [("client_max_window_bits", "10")],
            "unsupported client_max_window_bits",
        ),
    ],
)
def test_refusals_say_why(offer, answer, message):
    with pytest.raises(e.NegotiationError) as info:
        ClientPerMessageDeflateFactory(**offer).process_response_params(answer, [])
    assert str(info.value) == message


# A second one in the same list


def test_second_one():
    extension = PerMessageDeflate(False, False, 15, 15)
    server = ServerPerMessageDeflateFactory()
    client = ClientPerMessageDeflateFactory()
    assert answer_of(server, [], [Other()]) == ([], (False, False, 15, 15))
    assert reading_of(client, [], [Other()]) == (False, False, 15, 15)
    with pytest.raises(e.NegotiationError, match="duplicate"):
        server.process_request_params([], [Other(), extension])
    with pytest.raises(e.NegotiationError, match="duplicate"):
        client.process_response_params([], [extension, Other()])


def test_default_against_default():
    offer, answer = handshake(
        ours_client(enable_client_permessage_deflate(None)),
        ours_server(enable_server_permessage_deflate(None)),
    )
    assert offer == f"{NAME}; client_max_window_bits"
    assert answer == f"{NAME}; server_max_window_bits=12; client_max_window_bits=12"


# Through the opening handshake


def ours_client(extensions):
    return ClientProtocol(parse_uri("ws://localhost/"), extensions=extensions)


def ours_server(extensions):
    return ServerProtocol(extensions=extensions)


def their_client(extensions):
    return TheirClientProtocol(their_parse_uri("ws://localhost/"), extensions=extensions)


def their_server(extensions):
    return TheirServerProtocol(extensions=extensions)


def handshake(client, server, offer=None):
    """Shake hands; return the offer, which can be replaced, and the answer."""
    request = client.connect()
    if offer is not None:
        request.headers["Sec-WebSocket-Extensions"] = offer
    client.send_request(request)
    server.receive_data(b"".join(client.data_to_send()))
    (received,) = server.events_received()
    response = server.accept(received)
    server.send_response(response)
    client.receive_data(b"".join(server.data_to_send()))
    assert server.state.name == "OPEN"
    return (
        request.headers.get("Sec-WebSocket-Extensions"),
        response.headers.get("Sec-WebSocket-Extensions"),
    )


@pytest.mark.parametrize(
    "make_client, client_module, make_server, server_module",
    [
        (ours_client, None, ours_server, None),
        (ours_client, None, their_server, theirs),
        (their_client, theirs, ours_server, None),
    ],
    ids=["ours", "their server", "their client"],
)
def test_handshakes(make_client, client_module, make_server, server_module):
    new_client = getattr(client_module, "ClientPerMessageDeflateFactory", FACTORIES[0])
    new_server = getattr(server_module, "ServerPerMessageDeflateFactory", FACTORIES[1])
    clients = [{}, {"server_no_context_takeover": True, "client_no_context_takeover": True}]
    clients += [{"client_max_window_bits": bits} for bits in (None, 9, 15)]
    clients += [{"server_max_window_bits": bits} for bits in (8, 9, 15)]
    servers = [{}, {"server_no_context_takeover": True, "client_no_context_takeover": True}]
    servers += [{"client_max_window_bits": bits} for bits in (9, 15)]
    servers += [{"server_max_window_bits": bits} for bits in (9, 15)]
    for client_config, server_config in itertools.product(clients, servers):
        client = make_client([new_client(**client_config)])
        server = make_server([new_server(**server_config)])
        offer, answer = handshake(client, server)
        assert client.handshake_exc is None
        assert client.state.name == "OPEN"
        assert len(client.extensions) == len(server.extensions)
        if client_config.get("server_max_window_bits") == 8:
            assert answer is None
            assert client.extensions == []
            continue
        ((_, offered),) = parse_extension(offer)
        ((name, answered),) = parse_extension(answer)
        assert name == NAME
        assert is_valid_answer(answered)
        assert fits(offered, answered)
        assert can_read(client.extensions[0], server.extensions[0])
        assert can_read(server.extensions[0], client.extensions[0])


@pytest.mark.parametrize(
    "offer, answer",
    [
        (NAME, NAME),
        (f"{NAME}; client_max_window_bits", NAME),
        (f"{NAME};client_max_window_bits=10", f"{NAME}; client_max_window_bits=10"),
        (f'{NAME}; client_max_window_bits="10"', f"{NAME}; client_max_window_bits=10"),
        (f'{NAME}; server_max_window_bits = "1\\0"', f"{NAME}; server_max_window_bits=10"),
        (
            f"{NAME}; client_max_window_bits=9; server_max_window_bits=10; "
            "client_no_context_takeover; server_no_context_takeover",
            f"{NAME}; server_no_context_takeover; client_no_context_takeover; "
            "server_max_window_bits=10; client_max_window_bits=9",
        ),
        # The first offer that can be accepted.
        (f"{NAME}; server_max_window_bits=8, {NAME}", NAME),
        (
            f"{NAME}; mode=best, {NAME}; server_max_window_bits=9, {NAME}",
            f"{NAME}; server_max_window_bits=9",
        ),
        (f", x-unknown; a=b ,, {NAME} ,", NAME),
        # The others are declined.
        (f"{NAME}, {NAME}; server_max_window_bits=9", NAME),
        # None.
        (f"{NAME}; server_max_window_bits=8", None),
        (f"{NAME}; server_max_window_bits", None),
        (f"{NAME}; server_max_window_bits=09", None),
        (f'{NAME}; client_max_window_bits="016"', None),
        (f"{NAME}; server_no_context_takeover=true", None),
        (f"{NAME}; client_no_context_takeover; client_no_context_takeover", None),
        (f"{NAME}; a", None),
        ("Permessage-deflate", None),
        ("x-webkit-deflate-frame", None),
    ],
)
def test_server_headers(offer, answer):
    server = ours_server([ServerPerMessageDeflateFactory()])
    assert handshake(ours_client(None), server, offer) == (offer, answer)
    assert len(server.extensions) == (answer is not None)


def test_factories_in_turn():
    strict = ServerPerMessageDeflateFactory(
        client_max_window_bits=9, require_client_max_window_bits=True
    )
    lax = ServerPerMessageDeflateFactory(server_no_context_takeover=True)
    for offer, answer in (
        (f"{NAME}; client_max_window_bits", f"{NAME}; client_max_window_bits=9"),
        (NAME, f"{NAME}; server_no_context_takeover"),
        (f"{NAME}, {NAME}; client_max_window_bits", f"{NAME}; server_no_context_takeover"),
    ):
        assert handshake(ours_client(None), ours_server([strict, lax]), offer)[1] == answer


@pytest.mark.parametrize("offer", [f"x-other, {NAME}", f"{NAME}, x-other"])
def test_beside_another_extension(offer):
    factories = [OtherFactory(), ServerPerMessageDeflateFactory()]
    server = ours_server(factories)
    assert handshake(ours_client(None), server, offer) == (offer, offer)
    assert [extension.name for extension in server.extensions] == offer.split(", ")


@pytest.mark.parametrize(
    "factories, answer, accepted",
    [
        ([ClientPerMessageDeflateFactory()], NAME, 1),
        ([ClientPerMessageDeflateFactory()], f'{NAME}; client_max_window_bits="9"', 1),
        ([ClientPerMessageDeflateFactory()], f"{NAME}; client_max_window_bits", None),
        ([ClientPerMessageDeflateFactory()], f"{NAME}; client_max_window_bits=8", 1),
        ([ClientPerMessageDeflateFactory()], f"{NAME}; client_max_window_bits=7", None),
        ([ClientPerMessageDeflateFactory()], f"{NAME}; x", None),
        ([ClientPerMessageDeflateFactory()], f"{NAME}, {NAME}", None),
        ([ClientPerMessageDeflateFactory()], "x-other", None),
        ([ClientPerMessageDeflateFactory(), OtherFactory()], f"x-other, {NAME}", 2),
        ([ClientPerMessageDeflateFactory(), OtherFactory()], f"{NAME}, x-other, {NAME}", None),
        # The first that the answer fits.
        (
            [
                ClientPerMessageDeflateFactory(server_max_window_bits=10),
                ClientPerMessageDeflateFactory(),
            ],
            NAME,
            1,
        ),
        (None, NAME, None),
    ],
)
def test_client_headers(factories, answer, accepted):
    client = ours_client(factories)
    server = ours_server(None)
    request = client.connect()
    client.send_request(request)
    server.receive_data(b"".join(client.data_to_send()))
    response = server.accept(*server.events_received())
    response.headers["Sec-WebSocket-Extensions"] = answer
    client.receive_data(response.serialize())
    if accepted is None:
        assert isinstance(client.handshake_exc, e.NegotiationError)
        assert client.state is State.CONNECTING
        assert client.extensions == []
    else:
        assert client.handshake_exc is None
        assert len(client.extensions) == accepted


def test_several_offers_of_one_extension():
    client = ours_client(
        [
            ClientPerMessageDeflateFactory(server_max_window_bits=8),
            ClientPerMessageDeflateFactory(server_no_context_takeover=True),
        ]
    )
    server = ours_server([ServerPerMessageDeflateFactory()])
    offer, answer = handshake(client, server)
    assert offer == build_extension(
        [(NAME, wire(False, False, 8, True)), (NAME, wire(True, False, None, True))]
    )
    assert answer == f"{NAME}; server_no_context_takeover"
    assert outcome(client.extensions[0]) == (True, False, 15, 15)
    assert outcome(server.extensions[0]) == (False, True, 15, 15)


def test_drop_in_modules():
    from wsapi import extensions as package
    from wsapi.extensions import base, permessage_deflate

    assert package.Extension is base.Extension is Extension
    assert package.ClientExtensionFactory is base.ClientExtensionFactory is ClientExtensionFactory
    assert package.ServerExtensionFactory is base.ServerExtensionFactory is ServerExtensionFactory
    assert set(permessage_deflate.__all__) == set(theirs.__all__)
    assert permessage_deflate.PerMessageDeflate is PerMessageDeflate
    assert permessage_deflate.ClientPerMessageDeflateFactory is ClientPerMessageDeflateFactory
