"""What tests of the factories for permessage-deflate have in common."""

from websockets.exceptions import NegotiationError as TheirNegotiationError

from wsproto_fast import exceptions as e
from wsproto_fast.extensions import ClientExtensionFactory, Extension, ServerExtensionFactory
from wsproto_fast.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

NAME = "permessage-deflate"

NAMES = (
    "server_no_context_takeover",
    "client_no_context_takeover",
    "server_max_window_bits",
    "client_max_window_bits",
)

BITS = range(8, 16)

OUTCOMES = (
    "remote_no_context_takeover",
    "local_no_context_takeover",
    "remote_max_window_bits",
    "local_max_window_bits",
)


class Other(Extension):
    """An extension that takes any frame as it is."""

    name = "x-other"

    def encode(self, frame):
        return frame

    def decode(self, frame, *, max_size=None):
        return frame


class OtherFactory(ClientExtensionFactory, ServerExtensionFactory):
    name = "x-other"

    def get_request_params(self):
        return []

    def process_response_params(self, params, accepted_extensions):
        return Other()

    def process_request_params(self, params, accepted_extensions):
        return [], Other()


def wire(*values):
    """Return pairs of name and value from the four parameters, in their order on the wire."""
    return [
        (name, None if value is True else str(value))
        for name, value in zip(NAMES, values, strict=True)
        if value is not None and value is not False
    ]


def values(params):
    """Return the four parameters: whether present, and the limits; True without a value."""
    found = dict(params)
    flags = [name in found for name in NAMES[:2]]
    limits = [
        None if name not in found else True if found[name] is None else int(found[name])
        for name in NAMES[2:]
    ]
    return *flags, *limits


def outcome(extension):
    return tuple(getattr(extension, name) for name in OUTCOMES)


def answer_of(factory, offer, accepted=()):
    """Return answer and outcome, or None if the offer is declined."""
    try:
        answer, extension = factory.process_request_params(offer, list(accepted))
    except (e.NegotiationError, TheirNegotiationError):
        return None
    return answer, outcome(extension)


FACTORIES = [ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory]
