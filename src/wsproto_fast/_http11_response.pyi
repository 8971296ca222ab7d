# Private: for the modules beside it.

from collections.abc import Generator

from typing_extensions import disjoint_base

from ._http11 import HeadParser
from .http11 import ReadBytes, ReadLine, Response

@disjoint_base
class ResponseParser(HeadParser):
    def __init__(self, *, allow_http10: bool = False, read_body: bool = True) -> None: ...
    @property
    def message(self) -> Response | None: ...
    def read(
        self,
        read_line: ReadLine,
        read_exact: ReadBytes | None = None,
        read_to_eof: ReadBytes | None = None,
    ) -> Generator[None, None, Response]: ...
    def take_body(self) -> bytes: ...
