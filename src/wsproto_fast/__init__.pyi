# All that is public of the compiled modules beside it is here. Docstrings are in their sources.

import re
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import Field
from typing import Any, ClassVar, Literal, Self, final, overload
from typing import Protocol as _Interface

from _typeshed import ReadableBuffer, WriteableBuffer
from typing_extensions import disjoint_base

from ._http11_response import ResponseParser
from ._version import __version__
from .backends import Backend
from .datastructures import Headers, MultipleValuesError
from .exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidState,
    PayloadTooBig,
    ProtocolError,
    RateExceeded,
    TooManyFragments,
    WebSocketException,
)
from .frames import Close, CloseCode, Opcode, Side, State
from .http11 import Request, Response
from .rates import Rate, RateLike
from .slow import Slow
from .statistics import ConnectionStats, Traffic
from .typing import (
    BytesLike,
    Data,
    DataLike,
    ExtensionName,
    ExtensionParameter,
    LoggerLike,
    Origin,
    StatusLike,
    Subprotocol,
)
from .uri import WebSocketURI

__all__ = [
    "Backpressure",
    "ClientProtocol",
    "Close",
    "CloseCode",
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionStats",
    "Extension",
    "Frame",
    "Headers",
    "InvalidHandshake",
    "InvalidState",
    "Listener",
    "MultipleValuesError",
    "Opcode",
    "PayloadTooBig",
    "PerMessageDeflate",
    "PreparedMessage",
    "Protocol",
    "ProtocolError",
    "Rate",
    "RateExceeded",
    "Request",
    "Response",
    "ResponseParser",
    "ServerProtocol",
    "Side",
    "Slow",
    "State",
    "TooManyFragments",
    "Totals",
    "Traffic",
    "WebSocketException",
    "__version__",
    "apply_mask",
    "check_close",
    "check_settings",
    "install_as_wsproto",
]

def install_as_wsproto() -> None: ...

# What the engine calls of an extension and of its factories; they need no base class.

class _Extension(_Interface):
    @property
    def name(self) -> str: ...
    def decode(self, frame: Frame, /, *, max_size: int | None = None) -> Frame: ...
    def encode(self, frame: Frame, /) -> Frame: ...

class _ClientExtensionFactory(_Interface):
    @property
    def name(self) -> str: ...
    def get_request_params(self) -> Sequence[ExtensionParameter]: ...
    def process_response_params(
        self, params: list[ExtensionParameter], accepted_extensions: list[Any], /
    ) -> _Extension: ...

class _ServerExtensionFactory(_Interface):
    @property
    def name(self) -> str: ...
    def process_request_params(
        self, params: list[ExtensionParameter], accepted_extensions: list[Any], /
    ) -> tuple[Sequence[ExtensionParameter], _Extension]: ...

# _frames

def check_close(code: int | None, reason: str = "") -> None: ...
def check_settings(
    *,
    max_size: int | tuple[int | None, int | None] | None = 2**20,
    max_queue: int | tuple[int | None, int | None] | None = 16,
    open_timeout: float | None = None,
    ping_interval: float | None = None,
    ping_timeout: float | None = None,
    close_timeout: float | None = None,
    write_deadline: float | None = None,
) -> None: ...
def apply_mask(data: ReadableBuffer, mask: ReadableBuffer) -> bytes: ...

@disjoint_base
class Frame:
    opcode: Opcode
    data: BytesLike
    fin: bool
    rsv1: bool
    rsv2: bool
    rsv3: bool
    def __init__(
        self,
        opcode: Opcode,
        data: BytesLike,
        fin: bool = True,
        rsv1: bool = False,
        rsv2: bool = False,
        rsv3: bool = False,
    ) -> None: ...
    @classmethod
    def parse(
        cls,
        read_exact: Callable[[int], Generator[None, None, BytesLike]],
        *,
        mask: bool,
        max_size: int | None = None,
        extensions: Sequence[Extension] | None = None,
    ) -> Generator[None, None, Self]: ...
    def serialize(self, *, mask: bool, extensions: Sequence[Extension] | None = None) -> bytes: ...
    def check(self) -> None: ...
    MAX_LOG_SIZE: ClassVar[int]
    DEFAULT_IS_TEXT: ClassVar[dict[Opcode, bool | None]]
    def __eq__(self, other: object, /) -> bool: ...
    __hash__: ClassVar[None]  # type: ignore[assignment] # object has one, what is compared by value hasn't
    def __reduce__(self) -> tuple[type[Self], tuple[Opcode, BytesLike, bool, bool, bool, bool]]: ...
    def __replace__(self, /, **changes: Any) -> Self: ...
    __match_args__: ClassVar[
        tuple[
            Literal["opcode"],
            Literal["data"],
            Literal["fin"],
            Literal["rsv1"],
            Literal["rsv2"],
            Literal["rsv3"],
        ]
    ]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    __dataclass_params__: ClassVar[Any]

# _deflate

class Extension:
    name: ExtensionName
    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame: ...
    def encode(self, frame: Frame) -> Frame: ...

@disjoint_base
class PerMessageDeflate(Extension):
    min_size: int
    def __init__(
        self,
        remote_no_context_takeover: bool,
        local_no_context_takeover: bool,
        remote_max_window_bits: int,
        local_max_window_bits: int,
        compress_settings: dict[str, Any] | None = None,
        *,
        backend: str | None = None,
        min_size: int = 32,
    ) -> None: ...
    @property
    def remote_no_context_takeover(self) -> bool: ...
    @property
    def local_no_context_takeover(self) -> bool: ...
    @property
    def remote_max_window_bits(self) -> int: ...
    @property
    def local_max_window_bits(self) -> int: ...
    @property
    def compress_settings(self) -> dict[str, Any]: ...
    @property
    def backend(self) -> Backend: ...
    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame: ...
    def encode(self, frame: Frame) -> Frame: ...

# _backlog

@final
class Backpressure:
    @property
    def slow(self) -> Slow | None: ...
    @property
    def max_backlog(self) -> int | None: ...
    @property
    def key(self) -> object: ...
    def __init__(
        self, slow: Slow | None = None, max_backlog: int | None = 33554432, *, key: object = None
    ) -> None: ...

# _statistics

@final
class Totals:
    @property
    def opening(self) -> int: ...
    @property
    def open(self) -> int: ...
    @property
    def closing(self) -> int: ...
    @property
    def handshakes(self) -> list[int]: ...
    @property
    def handshake_seconds(self) -> float: ...
    def add(self, protocol: Protocol, unsent: int = 0) -> bool: ...
    def add_unsent(self, unsent: int) -> None: ...
    def add_past(self, protocol: Protocol) -> int: ...
    def copy(self) -> Totals: ...
    def counts(self) -> dict[str, int]: ...

# _protocol

@final
class PreparedMessage:
    def __new__(cls, message: DataLike, text: bool | None = None) -> Self: ...

@disjoint_base
class Listener: ...  # for compiled code: _listener.pxd

@disjoint_base
class Protocol:
    handshake_exc: Exception | None
    parser_exc: Exception | None
    close_rcvd: Close | None
    close_sent: Close | None
    close_rcvd_then_sent: bool | None
    subprotocol: Subprotocol | None
    validate_text: bool
    latency: float

    def __init__(
        self,
        side: Side,
        *,
        state: State = State.OPEN,
        max_size: int | tuple[int | None, int | None] | None = 1048576,
        logger: LoggerLike | None = None,
    ) -> None: ...

    # Settings

    def queue_messages(
        self,
        high: int | None = 16,
        low: int | None = None,
        *,
        max_bytes: int | None = 2**22,
        max_fragments: int | None = 4096,
    ) -> None: ...
    def listen(
        self,
        on_message: Callable[[Data], object] | None = None,
        *,
        on_frame: Callable[[int, memoryview, bool], object] | None = None,
        listener: Listener | None = None,
        now: float | None = None,
    ) -> None: ...
    @property
    def last_in_buffer(self) -> bool: ...
    def set_timeouts(
        self,
        *,
        open_timeout: float | None = ...,
        ping_interval: float | None = None,
        ping_timeout: float | None = None,
        close_timeout: float | None = None,
        now: float | None = None,
    ) -> None: ...
    def logs(self, level: int) -> bool: ...
    def attach_to(self, connection: object, until_lost: bool = False) -> None: ...
    def limit_rates(
        self, messages: RateLike = None, size: RateLike = None, *, now: float | None = None
    ) -> None: ...
    def use_read_buffer(self, buffer: WriteableBuffer) -> None: ...

    # State

    @property
    def id(self) -> uuid.UUID: ...
    @id.setter
    def id(self, id: uuid.UUID) -> None: ...
    @property
    def side(self) -> Side: ...
    @property
    def logger(self) -> LoggerLike: ...
    @logger.setter
    def logger(self, logger: LoggerLike) -> None: ...
    @property
    def state(self) -> State: ...
    @state.setter
    def state(self, state: State) -> None: ...
    @property
    def extensions(self) -> list[_Extension]: ...
    @extensions.setter
    def extensions(self, extensions: Iterable[_Extension]) -> None: ...
    @property
    def max_size(self) -> int | tuple[int | None, int | None] | None: ...
    @property
    def max_message_size(self) -> int | None: ...
    @max_message_size.setter
    def max_message_size(self, limit: int | None) -> None: ...
    @property
    def max_fragment_size(self) -> int | None: ...
    @max_fragment_size.setter
    def max_fragment_size(self, limit: int | None) -> None: ...
    @property
    def close_code(self) -> int | None: ...
    @property
    def close_reason(self) -> str | None: ...
    @property
    def close_exc(self) -> ConnectionClosed: ...
    def close_expected(self) -> bool: ...
    @property
    def queued_frames(self) -> int: ...
    @property
    def queue_marks(self) -> tuple[int | None, int | None]: ...
    @property
    def reading_wanted(self) -> bool: ...
    @property
    def output_size(self) -> int: ...
    @property
    def transport_action(self) -> int: ...

    # Time

    def next_timeout(self) -> float | None: ...
    def handle_timeout(
        self,
        now: float | None = None,
        network_silence: float | None = None,
        progress: object = None,
    ) -> int: ...
    @property
    def progress_wanted(self) -> bool: ...
    @property
    def network_silence_wanted(self) -> bool: ...

    # Receiving

    def get_buffer(self, sizehint: int = -1) -> memoryview: ...
    def __call__(self, sizehint: int = -1) -> memoryview: ...
    def buffer_updated(self, size: int, now: float | None = None) -> int: ...
    @property
    def can_receive_kept(self) -> bool: ...
    def receive_kept(self, now: float | None = None) -> int: ...
    def receive_data(self, data: ReadableBuffer, now: float | None = None) -> int: ...
    def receive_eof(self, now: float | None = None) -> int: ...
    def connection_lost(
        self, exc: Exception | None = None, *, now: float | None = None
    ) -> None: ...
    def events_received(self) -> list[Frame | Request | Response]: ...
    @overload
    def next_message(self, decode: Literal[True], *, now: float | None = None) -> str | None: ...
    @overload
    def next_message(self, decode: Literal[False], *, now: float | None = None) -> bytes | None: ...
    @overload
    def next_message(
        self, decode: bool | None = None, *, now: float | None = None
    ) -> Data | None: ...
    @overload
    def next_fragment(
        self, decode: Literal[True], *, now: float | None = None
    ) -> tuple[str, bool] | None: ...
    @overload
    def next_fragment(
        self, decode: Literal[False], *, now: float | None = None
    ) -> tuple[bytes, bool] | None: ...
    @overload
    def next_fragment(
        self, decode: bool | None = None, *, now: float | None = None
    ) -> tuple[Data, bool] | None: ...
    def skip_fragments(self) -> None: ...
    def stop_waiting(self) -> None: ...
    def acknowledged_pings(self) -> list[tuple[Any, float]]: ...
    def abandoned_pings(self) -> list[Any]: ...

    # Sending

    def send(
        self, message: DataLike, text: bool | None = None, *, compress: bool | None = None
    ) -> int: ...
    def send_prepared(self, message: PreparedMessage, *, compress: bool | None = None) -> int: ...
    def send_text(
        self, data: DataLike, fin: bool = True, *, compress: bool | None = None
    ) -> None: ...
    def send_binary(
        self, data: DataLike, fin: bool = True, *, compress: bool | None = None
    ) -> None: ...
    def send_continuation(self, data: DataLike, fin: bool) -> None: ...
    def send_ping(self, data: DataLike) -> None: ...
    def send_pong(self, data: DataLike) -> None: ...
    def ping(
        self, data: DataLike | None = None, waiter: object = None, *, now: float | None = None
    ) -> bytes: ...
    def close(
        self, code: int | None = 1000, reason: str = "", *, now: float | None = None
    ) -> None: ...
    def send_close(
        self, code: int | None = None, reason: str = "", *, now: float | None = None
    ) -> None: ...
    def fail(self, code: int, reason: str = "", *, now: float | None = None) -> None: ...
    def give_up(
        self, exc: Exception | None = None, *, abort: bool = True, now: float | None = None
    ) -> None: ...
    def shed(self, exc: Exception | None, *, unsent: int = 0, now: float | None = None) -> None: ...

    # Statistics

    def buffered_bytes(self, unsent: int = 0) -> int: ...
    def stats(self, *, unsent: int = 0, now: float | None = None) -> ConnectionStats: ...
    @property
    def handshake_seconds(self) -> float | None: ...

    # Output

    def data_to_send(self) -> list[bytes]: ...
    def take_output(self) -> bytes: ...
    def take_output_parts(self) -> list[bytes | memoryview]: ...
    def pause_writing(self, unsent: int = 0) -> None: ...
    def resume_writing(self) -> None: ...

    # What waits while writing is paused

    def set_backpressure(
        self, backpressure: Backpressure | None = None, *, write_deadline: float | None = None
    ) -> None: ...
    def offer(
        self,
        message: PreparedMessage,
        terms: Backpressure,
        *,
        unsent: int = 0,
        compress: bool | None = None,
        now: float | None = None,
    ) -> int: ...
    @property
    def backlog_size(self) -> int: ...
    @property
    def backlog_messages(self) -> int: ...
    @property
    def backlog_mark(self) -> int: ...
    def is_waiting(self, mark: int) -> bool: ...
    @property
    def waits_to_send(self) -> bool: ...
    @property
    def dropped(self) -> dict[Slow, int]: ...
    def dropped_messages(self) -> dict[Slow, int]: ...

# _handshake, _client, _server

@disjoint_base
class ClientProtocol(Protocol):
    uri: WebSocketURI
    key: str
    origin: Origin | None
    available_extensions: Sequence[_ClientExtensionFactory] | None
    available_subprotocols: Sequence[Subprotocol] | None

    def __init__(
        self,
        uri: WebSocketURI,
        *,
        origin: Origin | None = None,
        extensions: Sequence[_ClientExtensionFactory] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        state: State = State.CONNECTING,
        max_size: int | tuple[int | None, int | None] | None = 1048576,
        logger: LoggerLike | None = None,
    ) -> None: ...
    def connect(self) -> Request: ...
    def send_request(self, request: Request) -> None: ...
    def process_response(self, response: Response) -> None: ...
    def process_extensions(self, headers: Headers) -> list[_Extension]: ...
    def process_subprotocol(self, headers: Headers) -> Subprotocol | None: ...

@disjoint_base
class ServerProtocol(Protocol):
    origin: Origin | None
    origins: Sequence[Origin | re.Pattern[str] | None] | None
    available_extensions: Sequence[_ServerExtensionFactory] | None
    available_subprotocols: Sequence[Subprotocol] | None
    check_host: bool
    server_header: str | None
    request: Request | None
    response: Response | None

    @property
    def response_status(self) -> int: ...
    def __init__(
        self,
        *,
        origins: Sequence[Origin | re.Pattern[str] | None] | None = None,
        extensions: Sequence[_ServerExtensionFactory] | None = None,
        subprotocols: Sequence[Subprotocol] | None = None,
        select_subprotocol: (
            Callable[[Any, Sequence[Subprotocol]], Subprotocol | None] | None
        ) = None,
        state: State = State.CONNECTING,
        max_size: int | tuple[int | None, int | None] | None = 1048576,
        logger: LoggerLike | None = None,
        check_host: bool = False,
        server_header: str | None = None,
    ) -> None: ...
    def accept(self, request: Request) -> Response: ...
    def take_request(self) -> bool: ...
    def answer(self, now: float | None = None) -> Response | None: ...
    def reject(self, status: StatusLike, text: str) -> Response: ...
    def send_response(self, response: Response, now: float | None = None) -> None: ...
    def timeout_response(self) -> Response | None: ...
    def process_request(self, request: Request) -> tuple[str, str | None, str | None]: ...
    def process_origin(self, headers: Headers) -> Origin | None: ...
    def process_extensions(self, headers: Headers) -> tuple[str | None, list[_Extension]]: ...
    def process_subprotocol(self, headers: Headers) -> Subprotocol | None: ...
    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None: ...
