"""A case of the matrix, all of which follows from a subject and a number.

The number runs through the kinds of faults, roles, and TLS in turn, and through the bytes of the
opening handshake; the rest is drawn by lot, with the number as the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tests.faults.proxy import HARMLESS, KINDS, AtByte, Fault, InFrame, InRecord, Kind, Place

Side = Literal["client", "server"]
SIDES: tuple[Side, ...] = ("client", "server")
SUBJECTS = ("asyncio", "uvloop", "threads", "trio", "uvicorn")
PEERS = ("ours", "websockets")

# Bytes of an opening handshake: of a request and a response, with and without TLS around them.
OPENING = {False: 400, True: 2600}

ENDINGS = (
    "client",
    "server",
    "both",
    "client early",  # without waiting for the other's messages
    "server early",
    "client abandons",
    "server abandons",
    "client cancelled",
)
WEIGHTS = (3, 3, 2, 2, 2, 1, 1, 1)

# Seconds. Those of cases that nothing harms are long, since this machine may be busy.
SHORT: dict[str, Any] = {
    "open_timeout": 2,
    "ping_interval": 0.5,
    "ping_timeout": 0.5,
    "close_timeout": 1,
}
LONG: dict[str, Any] = {
    "open_timeout": 20,
    "ping_interval": 20,
    "ping_timeout": 20,
    "close_timeout": 10,
}
SLACK = 10
# What a side may take at most: its deadlines, moving its messages (the slow ones), the slack.
LIMIT = {True: 2 + 1 + 1 + 4 + SLACK, False: 20 + 20 + 10 + SLACK}


@dataclass(frozen=True)
class Message:
    """A message; what it is follows from the case, the side that sends it, and its number."""

    data: str | bytes
    fragments: list[Any] | None


_dice = random.Random(0)
NOISE = _dice.randbytes(300_000)
LETTERS = "".join(_dice.choices("abcdefghij é€", k=150_000))


def message(seed: int, side: Side, number: int, *, size: int | None = None) -> Message:
    dice = random.Random(f"{seed} {side} {number}")
    if size is None:
        match dice.randrange(8):
            case 0:
                size = 0
            case 1 | 2 | 3:
                size = dice.randrange(130)
            case 4 | 5:
                size = dice.randrange(1000, 70_000)
            case 6:
                size = dice.randrange(3000)
            case _:
                size = dice.randrange(200_000, 260_000)
    head = f"{side} {number}:"
    start = dice.randrange(1000)
    data: str | bytes
    match dice.randrange(3):
        case 0:
            data = head + LETTERS[start : start + size // 2]
        case 1:
            data = head.encode() + NOISE[start : start + size]
        case _:
            data = head.encode() + bytes(size)
    fragments = None
    if dice.random() < 0.25:
        step = max(len(data) // dice.randrange(2, 6), 1)
        fragments = [data[i : i + step] for i in range(0, len(data), step)]
    return Message(data, fragments)


def number_of(data: str | bytes, side: Side) -> int:
    """Return the number of a message, -1 if it hasn't any."""
    head = data[:30] if isinstance(data, str) else data[:30].decode("latin-1")
    sender, _, number = head.partition(":")[0].partition(" ")
    return int(number) if sender == side and number.isdigit() else -1


@dataclass(frozen=True)
class Case:
    """A connection of the matrix.

    Attributes:
        subject: What is tested.
        seed: Number from which all follows.
        role: What the subject is.
        peer: What it talks to.
        tls, compressed: How they talk.
        kind: Fault.
        upward: Whether it begins in what the client sends.
        ending: How the connection ends if the fault lets it.
        impatient: Sides that give waiting up again and again.
        slow: Sides that take their time between messages.
        messages: Numbers of messages that the sides send.
        flood: Size of messages that fill buffers; None for others.
    """

    subject: str
    seed: int
    role: Side
    peer: str
    tls: bool
    compressed: bool
    kind: Kind
    upward: bool
    place: tuple[Any, ...]
    ending: str
    impatient: frozenset[Side]
    slow: frozenset[Side]
    messages: dict[Side, int]
    flood: int | None

    @property
    def harmful(self) -> bool:
        return self.kind not in HARMLESS

    @property
    def timeouts(self) -> dict[str, Any]:
        return SHORT if self.harmful else LONG

    @property
    def limit(self) -> float:
        """Seconds after which a side hangs."""
        return LIMIT[self.harmful]

    @property
    def command(self) -> str:
        return f"python -m tests.faults --subject {self.subject} --replay {self.seed}"

    def fault(self) -> Fault:
        dice = random.Random(f"{self.seed} fault")
        place: Place
        match self.place:
            case ("byte", offset):
                place = AtByte(offset)
            case ("frame", what, number, part):
                place = InFrame(what, number, part)
            case _:
                place = InRecord(*self.place[1:])
        return Fault(
            self.kind,
            self.upward,
            None if self.kind == "none" else place,
            seconds=dice.choice([0.02, 0.2, 0.6]),
            both=dice.random() < 0.5,
            seed=self.seed,
        )

    def message(self, side: Side, number: int) -> Message:
        return message(self.seed, side, number, size=self.flood)

    def __str__(self) -> str:
        return (
            f"{self.subject} {self.role} {self.kind} {'up' if self.upward else 'down'} at "
            f"{' '.join(map(str, self.place))}; {'TLS' if self.tls else 'plain'}, "
            f"{'compressed' if self.compressed else 'uncompressed'}, peer {self.peer}; "
            f"ending: {self.ending}; impatient: {sorted(self.impatient)}; slow: {sorted(self.slow)}"
        )


def make(subject: str, seed: int) -> Case:
    """Return a case."""
    dice = random.Random(f"{subject} {seed}")
    rest, kind = divmod(seed, len(KINDS))
    role: Side = "server"
    if subject != "uvicorn":
        rest, client = divmod(rest, 2)
        role = SIDES[client]
    rest, tls = divmod(rest, 2)
    rest, upward = divmod(rest, 2)
    ending = dice.choices(ENDINGS, WEIGHTS)[0]
    if (subject == "uvicorn" and ending == "server abandons") or (
        # Threads can't be cancelled.
        subject == "threads" and role == "client" and ending == "client cancelled"
    ):
        ending = "server"
    kinds: Kind = KINDS[kind]
    return Case(
        subject=subject,
        seed=seed,
        role=role,
        peer=dice.choice(PEERS),
        tls=bool(tls),
        compressed=dice.random() < 0.4,
        kind=kinds,
        upward=bool(upward),
        place=_place(dice, bool(tls), rest, kinds),
        ending=ending,
        impatient=_some(dice, 0.2),
        slow=_some(dice, 0.15),
        messages={side: dice.randrange(2, 9) for side in SIDES},
        flood=500_000 if kinds == "stall" and dice.random() < 0.6 else None,
    )


def _some(dice: random.Random, probability: float) -> frozenset[Side]:
    return frozenset(side for side in SIDES if dice.random() < probability)


def _place(dice: random.Random, tls: bool, sweep: int, kind: Kind) -> tuple[Any, ...]:
    if kind in ("bytes", "splits") and dice.random() < 0.5:
        return "byte", 0
    phase = sweep % 3
    if phase == 0:
        # 7 and the number of bytes have no common divisor: each byte gets its turn.
        return "byte", sweep // 3 * 7 % (OPENING[tls] - 1)
    if tls:
        return "record", dice.randrange(20), dice.choice(["header", "payload", "end"])
    part = dice.choice(["header", "length", "mask", "payload", "end"])
    if phase == 1:
        what = dice.choice(["any", "any", "large", "fragment", "fragment", "ping"])
        number = dice.randrange({"any": 8, "large": 2, "fragment": 5, "ping": 1}[what])
        return "frame", what, number, part
    return "frame", "close", 0, part


def numbers(start: int, count: int | None = None) -> Iterator[int]:
    """Yield the numbers of cases."""
    number = start
    while count is None or number < start + count:
        yield number
        number += 1
