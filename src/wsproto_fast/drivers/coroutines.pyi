# Docstrings are in coroutines.pyx.

from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable
from typing import Any, Literal, overload
from typing import Protocol as _Interface

from wsproto_fast.typing import Data, DataLike

from .asyncio import TransportDriver

class _Owner(_Interface):
    def _send_slowly(
        self,
        obstacle: int,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        text: bool | None,
        compress: bool | None,
    ) -> Coroutine[Any, Any, None]: ...

@overload
def receiving(driver: TransportDriver, decode: Literal[True], /) -> Coroutine[Any, Any, str]: ...
@overload
def receiving(driver: TransportDriver, decode: Literal[False], /) -> Coroutine[Any, Any, bytes]: ...
@overload
def receiving(driver: TransportDriver, decode: bool | None, /) -> Coroutine[Any, Any, Data]: ...
def messages(driver: TransportDriver) -> AsyncIterator[Data]: ...
def sending(
    driver: TransportDriver,
    connection: _Owner,
    message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
    text: bool | None,
    compress: bool | None,
    /,
) -> Coroutine[Any, Any, None]: ...
def handling(connection: object) -> Coroutine[Any, Any, None]: ...
