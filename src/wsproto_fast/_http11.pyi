# Private: for the modules beside it.

from collections.abc import Generator

from _typeshed import ReadableBuffer
from typing_extensions import disjoint_base

from .http11 import ReadBytes, ReadLine, Request, Response

@disjoint_base
class HeadParser:
    @property
    def complete(self) -> bool: ...
    @property
    def message(self) -> Request | Response | None: ...
    def feed_data(self, data: ReadableBuffer) -> int: ...
    def feed_eof(self) -> None: ...
    def read(
        self,
        read_line: ReadLine,
        read_exact: ReadBytes | None = None,
        read_to_eof: ReadBytes | None = None,
    ) -> Generator[None, None, Request | Response]: ...

@disjoint_base
class RequestParser(HeadParser):
    def __init__(self) -> None: ...
    @property
    def message(self) -> Request | None: ...
    def read(
        self,
        read_line: ReadLine,
        read_exact: ReadBytes | None = None,
        read_to_eof: ReadBytes | None = None,
    ) -> Generator[None, None, Request]: ...
