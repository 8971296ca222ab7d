"""For `from wsproto_fast cimport ...`.

Stable are all of Listener, `Protocol.send_memory`, the opcodes, and what these classes have in Python. Other `cdef`
members may change with any version; a program that is compiled against one version runs with no other.
"""

from ._client cimport ClientProtocol
from ._deflate cimport PerMessageDeflate
from ._frames cimport OP_BINARY, OP_CONT, OP_TEXT, Frame
from ._listener cimport Listener
from ._protocol cimport Protocol
from ._sender cimport PreparedMessage
from ._server cimport ServerProtocol
