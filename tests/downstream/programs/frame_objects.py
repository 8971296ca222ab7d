"""Frames and Close frames as objects: made, written, read, shown."""

import dataclasses

from websockets.exceptions import ConnectionClosedError, ProtocolError
from websockets.frames import BytesLike, Close, CloseCode, Frame, Opcode  # noqa: F401
from websockets.streams import StreamReader


def parse(data, **options):
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    parsing = Frame.parse(reader.read_exact, mask=False, **options)
    try:
        next(parsing)
    except StopIteration as stop:
        return stop.value


for frame in (
    Frame(Opcode.TEXT, "café".encode()),
    Frame(Opcode.BINARY, bytes(range(12)), fin=False),
    Frame(Opcode.CONT, b"more"),
    Frame(Opcode.PING, b"ping"),
    Frame(Opcode.PONG, b""),
    Frame(Opcode.CLOSE, Close(1000, "bye").serialize()),
    Frame(Opcode.TEXT, b"x" * 70_000),
):
    print(frame, frame.serialize(mask=False)[:12].hex())
    print(parse(frame.serialize(mask=False)) == frame)
for close in (Close(1000, ""), Close(1011, "réason"), Close(4999, "own"), Close(3500, "")):
    print(close, close.serialize(), Close.parse(close.serialize()) == close)
for wrong in (b"\x03", b"\x00\x05", b"\x03\xe8\xff"):
    try:
        print(Close.parse(wrong))
    except (ProtocolError, UnicodeDecodeError) as exc:
        print(type(exc).__name__, exc)
for data in (b"\x83\x00", b"\x89\x7e\x00\x80" + bytes(128), b"\x09\x00"):
    try:
        print(parse(data))
    except ProtocolError as exc:
        print(type(exc).__name__, exc)
print(Close.parse(b""), [code.name for code in CloseCode][:4], Opcode(9).name)
print(dataclasses.replace(Frame(Opcode.TEXT, b"a"), fin=False).fin)
print(ConnectionClosedError(Close(1006, ""), None))
