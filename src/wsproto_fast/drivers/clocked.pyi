# Docstrings are in clocked.pyx.

from collections.abc import Callable

from wsproto_fast import ClientProtocol, ServerProtocol

class ClockedClientProtocol(ClientProtocol):
    clock: Callable[[], float] | None

class ClockedServerProtocol(ServerProtocol):
    clock: Callable[[], float] | None
