"""Two protocols that talk through pipes which cut the stream anywhere, against a simple model."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wsproto_fast import InvalidState, Protocol, Side, State, activity

from .helpers import CLOSE, parse

sides = st.sampled_from([0, 1])
texts = st.one_of(st.text(max_size=20), st.sampled_from(["x" * 126, "é" * 300, "a" * 3000]))
payloads = st.one_of(texts, st.binary(max_size=20), st.just(b"\xff" * 70_000))


@dataclass
class End:
    """One protocol, what it sent, and what is under way to it."""

    protocol: Protocol
    buffered: bool
    output: bytearray = field(default_factory=bytearray)  # all it ever sent
    inbox: bytearray = field(default_factory=bytearray)
    inbox_ends: bool = False
    lost: bool = False
    messages_sent: list[str | bytes] = field(default_factory=list)
    messages_read: list[str | bytes] = field(default_factory=list)
    fragments: list[str] | None = None
    pings: list[bytes] = field(default_factory=list)
    acknowledged: list[bytes] = field(default_factory=list)


class Conversation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cut = False  # what is sent from then on is lost
        self.ends = [End(Protocol(Side.SERVER), False), End(Protocol(Side.CLIENT), True)]
        for end in self.ends:
            end.protocol.queue_messages(4)
            end.protocol.set_timeouts(close_timeout=1000, now=0.0)
            end.protocol.use_read_buffer(memoryview(bytearray(50)))

    def flush(self, index: int) -> None:
        end, peer = self.ends[index], self.ends[1 - index]
        while data := end.protocol.take_output():
            end.output += data
            if not self.cut:
                assert not peer.inbox_ends, "something was sent after the end of the stream"
                peer.inbox += data
        if end.protocol.transport_action >= activity.HALF_CLOSE:
            peer.inbox_ends = True
        for waiter, latency in end.protocol.acknowledged_pings():
            assert latency >= 0
            end.acknowledged.append(waiter)

    def is_open(self, index: int) -> bool:
        return self.ends[index].protocol.state is State.OPEN

    @rule(index=sides, message=payloads)
    def send(self, index: int, message: str | bytes) -> None:
        end = self.ends[index]
        if end.fragments is not None:
            return
        try:
            end.protocol.send(message)
        except InvalidState:
            assert not self.is_open(index)
        else:
            end.messages_sent.append(message)
        self.flush(index)

    @rule(index=sides, text=texts, last=st.booleans())
    def send_fragment(self, index: int, text: str, last: bool) -> None:
        end = self.ends[index]
        if not self.is_open(index):
            return
        if end.fragments is None:
            end.protocol.send_text(text, fin=last)
            end.fragments = [text]
        else:
            end.protocol.send_continuation(text, fin=last)
            end.fragments.append(text)
        if last:
            end.messages_sent.append("".join(end.fragments))
            end.fragments = None
        self.flush(index)

    @rule(index=sides)
    def ping(self, index: int) -> None:
        end = self.ends[index]
        if self.is_open(index):
            payload = b"%d" % len(end.pings)
            end.pings.append(end.protocol.ping(payload, payload, now=self.now))
            self.flush(index)

    @rule(index=sides, code=st.sampled_from([1000, 1001, 4000]))
    def close(self, index: int, code: int) -> None:
        self.ends[index].protocol.close(code, now=self.now)
        self.flush(index)

    @rule(index=sides)
    def fail(self, index: int) -> None:
        self.ends[index].protocol.fail(1011, "why", now=self.now)
        self.flush(index)

    @rule(index=sides, size=st.one_of(st.integers(1, 5), st.integers(1, 5000), st.just(10**6)))
    def deliver(self, index: int, size: int) -> None:
        end = self.ends[index]
        protocol = end.protocol
        if not protocol.reading_wanted or protocol.state is State.CLOSED:
            return
        self.now += 1
        if end.buffered:
            buffer = protocol.get_buffer()
            piece = bytes(end.inbox[: min(size, len(buffer))])
            buffer[: len(piece)] = piece
            if piece:
                protocol.buffer_updated(len(piece), self.now)
        else:
            piece = bytes(end.inbox[:size])
            protocol.receive_data(piece, self.now)
        del end.inbox[: len(piece)]
        if not end.inbox and end.inbox_ends:
            protocol.receive_eof(self.now)
        self.flush(index)

    @rule(index=sides)
    def swap_the_way_in(self, index: int) -> None:
        self.ends[index].buffered = not self.ends[index].buffered

    @rule(index=sides)
    def read(self, index: int) -> None:
        end = self.ends[index]
        message = end.protocol.next_message()
        if message is None:
            end.protocol.stop_waiting()
        else:
            end.messages_read.append(message)
        self.flush(index)

    @rule(index=sides)
    def pause_and_resume_writing(self, index: int) -> None:
        self.ends[index].protocol.pause_writing()
        self.deliver(index, 1000)
        self.ends[index].protocol.resume_writing()
        self.flush(index)

    @precondition(lambda self: any(end.inbox for end in self.ends))
    @rule(index=sides)
    def cut_the_line(self, index: int) -> None:
        self.cut = True
        self.ends[index].inbox.clear()
        self.ends[index].protocol.connection_lost(ConnectionResetError())
        self.ends[index].lost = True
        self.ends[1 - index].inbox_ends = True

    @invariant()
    def messages_arrive_in_order(self) -> None:
        for end, peer in (self.ends, self.ends[::-1]):
            assert end.messages_read == peer.messages_sent[: len(end.messages_read)]

    @invariant()
    def pings_are_acknowledged_in_order(self) -> None:
        for end in self.ends:
            assert end.acknowledged == end.pings[: len(end.acknowledged)]

    @invariant()
    def neither_side_finds_fault_with_the_other(self) -> None:
        for end in self.ends:
            exc = end.protocol.parser_exc
            assert exc is None or isinstance(exc, EOFError | ConnectionResetError)

    @invariant()
    def a_closing_connection_reads_on_and_has_a_deadline(self) -> None:
        for end in self.ends:
            protocol = end.protocol
            if protocol.state is State.CLOSING:
                assert protocol.reading_wanted
            if protocol.state >= State.CLOSING:
                assert (protocol.next_timeout() is None) is end.lost

    def teardown(self) -> None:
        for index in (0, 1):
            self.close(index, 1000)
        for _ in range(3):
            for index in (0, 1):
                end = self.ends[index]
                while end.inbox and end.protocol.state is not State.CLOSED:
                    self.deliver(index, 10**6)
                if end.inbox_ends:
                    end.protocol.receive_eof(self.now)
                self.flush(index)
                while (message := end.protocol.next_message()) is not None:
                    end.messages_read.append(message)
        self.messages_arrive_in_order()
        for end, peer in (self.ends, self.ends[::-1]):
            closes = [wire for wire in parse(bytes(end.output)) if wire.opcode == CLOSE]
            assert len(closes) <= 1
            if closes:
                assert end.protocol.close_sent is not None
                assert end.protocol.close_sent.serialize() == closes[0].payload
            assert end.protocol.state is State.CLOSED
            if end.protocol.close_rcvd is not None:
                assert end.protocol.close_rcvd == peer.protocol.close_sent


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
