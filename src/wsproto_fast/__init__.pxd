"""For `from wsproto_fast cimport ...`.

Stable are what these classes have in Python, all of Listener, the names below, and of Protocol these C methods, for
drivers (what moves bytes between a transport and the engine) and programs that are compiled. They cost no Python
call. `now` is the current time in seconds, of any clock that doesn't go back.

In:

| C method of Protocol | does | in Python |
|---|---|---|
| `process_buffer(size, now)` | process what `get_buffer()` was filled with; return activity bits | `buffer_updated()` |
| `wants_reading()` | tell whether to go on reading | `reading_wanted` |
| `peer_has_to_wait()` | tell whether nothing is to be read, whoever waits for it, because of limits on rates | |
| `has_ended()` | tell whether the end of the stream was received | |
| `has_fragment()` | tell whether `pop_fragment()` would return something | |
| `pop_message(decode, now)` | return the next message, or None | `next_message()` |
| `pop_fragment(decode, now)` | return the next fragment and whether it ends its message, or None | `next_fragment()` |
| `take_message(decode, now, &activity)` | do what `pop_message()` does, then, if there is room, `process_kept()` | |
| `take_fragment(decode, now, &activity)` | the same with `pop_fragment()` | |
| `has_kept()` | tell whether compressed input was kept, so that these two need the time | |
| `can_process_kept()` | tell whether compressed input was kept that there is room for now | `can_receive_kept` |
| `process_kept(now)` | process it; return activity bits | `receive_kept()` |
| `has_acknowledged_pings()` | tell whether `acknowledged_pings()` would return something | |

Out:

| C method of Protocol | does | in Python |
|---|---|---|
| `is_open()` | tell whether messages can be sent | `state is State.OPEN` |
| `is_sending_fragments()` | tell whether a fragmented message was begun and not ended | |
| `send_message(message, text, compress)` | send a message; return activity bits | `send()` |
| `send_prepared_message(message, compress)` | the same for a PreparedMessage | `send_prepared()` |
| `send_memory(opcode, data, size)` | the same for OP_TEXT or OP_BINARY in memory | |
| `is_obstructed()` | tell whether what goes to many connections needs `offer_message()` | |
| `offer_message(message, compress, terms, unsent, now)` | send a PreparedMessage on terms; return bits | `offer()` |
| `has_to_wait(terms)` | tell whether that would look at `unsent` | |
| `sender_waits()` | tell whether who sends is to wait while writing is paused | `waits_to_send` |
| `last_in_backlog()` | return the number of the message that has begun to wait last | `backlog_mark` |
| `backlog_holds(number)` | tell whether a message with this number, or an earlier one, waits | `is_waiting()` |
| `has_dropped()` | tell whether `dropped_messages()` would return something | |
| `output_left()` | return the number of bytes to send | `output_size` |
| `pop_output()` | return and forget a piece, copied if it is a large frame; empty if there is none | `take_output()` |
| `has_parts()` | tell whether there is a large frame among them, whose payload needn't be copied | |
| `pop_parts()` | return and forget all, not copied: a list of bytes and ASCII str | `take_output_parts()` |

Time:

| C method of Protocol | does | in Python |
|---|---|---|
| `last_time()` | return the time that was told last | |
| `actual_time(now)` | return `now`, or what an engine with a clock of its own takes instead | |
| `next_deadline()` | return when `handle_timeout()` is due; infinite if never | `next_timeout()` |
| `wants_network_silence()` | tell whether it would look at its second argument | `network_silence_wanted` |
| `wants_progress()` | tell whether it would look at its third argument | `progress_wanted` |

What raises in Python raises here, and what doesn't doesn't. Other `cdef` members may change with any version. A
program that is compiled against one version runs with no other.
"""

from ._backlog cimport Backpressure
from ._client cimport ClientProtocol
from ._deflate cimport PerMessageDeflate

# A truth value in one byte.
from ._flag cimport flag
from ._frames cimport OP_BINARY, OP_CONT, OP_TEXT, Frame
from ._listener cimport Listener
from ._protocol cimport Protocol

# Activity bits; see activity.py.
from ._queue cimport ATTENTION, FLUSH, FRAGMENT, MESSAGE, OUTPUT

# Transport actions, which `Protocol.transport_action` tells.
from ._endpoint cimport ABORT, CLOSE, HALF_CLOSE, KEEP
from ._sender cimport PreparedMessage
from ._server cimport ServerProtocol
