"""For `from wsproto_fast cimport Protocol`."""

from ._deflate cimport PerMessageDeflate
from ._frames cimport Frame
from ._handshake cimport ClientProtocol, ServerProtocol
from ._protocol cimport Protocol
from ._sender cimport PreparedMessage
