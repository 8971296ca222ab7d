"""What runs in the broker: scripts in Lua, which keep offsets, epochs, and history together.

Keys of a topic, which share a hash tag: a hash (``e``: epoch; ``o``: offset of the last message;
``r``: run of the broker that gave it; ``p``, ``l``: see below), and a stream whose IDs are
``<offset>-<mark>``. Its entries have one field: ``t`` or ``b`` (text, binary), and the message. The
channel has the name of the stream.

A broker that begins anew may have lost the last messages that it acknowledged (an older snapshot,
the last second of an append-only file, a replica that lagged). So the first message of another run
leaps over all offsets that may have been given already: to a number that follows from the time. The
entry says in a field ``p`` which offset precedes it, and the hash keeps both (``p``, ``l``). Who
knows an offset that is beyond the last one, or between these two, has proof that messages are lost:
the epoch ends, so that everybody is told.

What is published on the channel is ``<epoch> <offset> <mark><t or b>\\n<message>``, with the offset
before it ahead of the mark where it leapt.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EMPTY_SECONDS", "META_SECONDS", "publishing", "reading"]

META_SECONDS: Final = 86400
"""Seconds for which epoch and offset of a topic outlive its last message, or its last follower."""

EMPTY_SECONDS: Final = 3600
"""The same for a topic without messages: anybody may ask for any number of these."""

# Offsets per millisecond, after a leap: more than a broker can give, so that two runs never give
# the same ones; and few enough for 2**53 to last until the year 4200.
_LEAP: Final = 128

# A reply of one call of the reading script has about so many bytes of messages, at most.
_PAGE_BYTES: Final = 2**20

_BEGIN = """
local function begin(offset)
  epoch = ARGV[2] .. ARGV[3]
  redis.call('DEL', KEYS[1])
  if redis.call('TYPE', KEYS[2])['ok'] == 'stream' then redis.call('DEL', KEYS[2]) end
  redis.call('HSET', KEYS[1], 'e', epoch, 'o', offset, 'r', ARGV[1])
end
"""

# ARGV: run, token, mark, kinds ("ttb": one letter per message), message...
# Nothing is done if anything is refused: types are checked by the first call on each key.
_PUBLISH = (
    """
local got = redis.call('HMGET', KEYS[1], 'e', 'o', 'r')
local epoch, last = got[1], tonumber(got[2])
local number = #ARGV - 4
local before
"""
    + _BEGIN
    + """
if not (epoch and last) then
  begin(0)
  last = 0
elseif got[3] ~= ARGV[1] then
  local now = redis.call('TIME')
  before = last
  last = math.max(last, (now[1] * 1000 + math.floor(now[2] / 1000)) * %(leap)d)
end
%(noted_before)sfor i = 1, number do
  local id = string.format('%%.0f', last + i)
  local kind = string.sub(ARGV[4], i, i)
  local leapt = before and i == 1
%(add)s
  local head = epoch .. ' ' .. id .. ' '
  if leapt then head = head .. string.format('%%.0f', before) .. ' ' end
  local sent = redis.pcall('%(publish)s', KEYS[2],
    head .. ARGV[3] .. kind .. '\\n' .. ARGV[4 + i])
  if type(sent) == 'table' and sent.err then
    %(undo)s
    return sent
  end
end
%(noted_after)sredis.call('PEXPIRE', KEYS[1], %(meta)d)
%(expire)s
return {epoch, last + number}
"""
)

# A broker that takes no writes (it is full, or a replica) refuses the first one. Without a stream,
# that is this one: it comes before anything is heard.
_NOTE = """\
if before then
  redis.call('HSET', KEYS[1], 'o', last + number, 'r', ARGV[1], 'p', before, 'l', last + 1)
else
  redis.call('HSET', KEYS[1], 'o', last + number)
end
"""

# A stream whose last ID is beyond ours was written by others: it begins anew, as its epoch does.
_ADD = """
  local added
  if leapt then
    added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '%(trim)s', %(history)d, id .. '-' .. ARGV[3],
      kind, ARGV[4 + i], 'p', before)
  else
    added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '%(trim)s', %(history)d, id .. '-' .. ARGV[3],
      kind, ARGV[4 + i])
  end
  if type(added) == 'table' and added.err then
    local beyond = string.find(added.err, 'smaller', 1, true)
      or string.find(added.err, 'exhausted', 1, true)
    if i > 1 or not beyond then return added end
    begin(0)
    last, before, leapt, id = 0, nil, false, '1'
    redis.call('XADD', KEYS[2], '1-' .. ARGV[3], kind, ARGV[4 + i])
  end
"""

# ARGV: run, token, mark, epoch and offset + 1 to read from (or empty), most entries, epoch and
# offset that the caller has seen (or empty).
_READ = (
    """
local got = redis.call('HMGET', KEYS[1], 'e', 'o', 'p', 'l')
local epoch, last = got[1], tonumber(got[2])
local lost = not (epoch and last)
if not lost and epoch == ARGV[7] then
  local seen, before, first = tonumber(ARGV[8]), tonumber(got[3]), tonumber(got[4])
  lost = seen > last or (before and before < seen and seen < first)
end
"""
    + _BEGIN
    + """
if lost then
  begin(0)
  redis.call('PEXPIRE', KEYS[1], %(empty)d)
  return {epoch, 0, false}
end
redis.call('PEXPIRE', KEYS[1], last > 0 and %(meta)d or %(empty)d)
if epoch ~= ARGV[4] then return {epoch, last, false} end
local most, found, size, from, step = tonumber(ARGV[6]), {}, 0, ARGV[5], 8
while most > 0 and size < %(page)d do
  step = math.min(most, step * 2)
  local part = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', step)
  for _, entry in ipairs(part) do
    found[#found + 1] = entry
    size = size + #(entry[2][2] or '')
  end
  most = most - #part
  if #part < step then break end
  from = '(' .. part[#part][1]
end
return {epoch, last, found}
"""
)


def publishing(*, history: int, history_seconds: float, exact: bool, publish: str) -> str:
    """Return the script that publishes messages of one topic, all or none.

    Args:
        history: Entries that the stream keeps; 0 for no stream.
        history_seconds: Seconds for which it outlives its last entry.
        exact: Whether it keeps no entry more.
        publish: ``PUBLISH`` or ``SPUBLISH``.
    """
    milliseconds = round(history_seconds * 1000)
    return _PUBLISH % {
        "leap": _LEAP,
        "publish": publish,
        "meta": max(META_SECONDS * 1000, milliseconds),
        "add": _ADD % {"trim": "=" if exact else "~", "history": history} if history else "",
        "noted_before": "" if history else _NOTE,
        "noted_after": _NOTE if history else "",
        "undo": (
            "redis.call('XDEL', KEYS[2], id .. '-' .. ARGV[3])"
            if history
            else "redis.call('HSET', KEYS[1], 'o', last + i - 1)"
        ),
        "expire": f"redis.call('PEXPIRE', KEYS[2], {milliseconds})" if history else "",
    }


def reading(*, history_seconds: float) -> str:
    """Return the script that tells epoch, last offset, and entries after a position of a topic.

    Args:
        history_seconds: Seconds for which the stream outlives its last entry.
    """
    return _READ % {
        "meta": max(META_SECONDS, round(history_seconds)) * 1000,
        "empty": EMPTY_SECONDS * 1000,
        "page": _PAGE_BYTES,
    }
