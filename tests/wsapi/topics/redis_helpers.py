"""What tests of the bus on Redis and Valkey share."""

from __future__ import annotations

from wsapi.topics.bus import Notice


class Receiver:
    """Keeps what a bus tells."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.interruptions: list[Exception] = []
        self.resumptions = 0

    def notice(self, notice: Notice) -> None:
        self.notices.append(notice)

    def interrupted(self, reason: Exception) -> None:
        assert len(self.interruptions) == self.resumptions
        self.interruptions.append(reason)

    def resumed(self) -> None:
        self.resumptions += 1
        assert len(self.interruptions) == self.resumptions

    def suspect(self, topic: str) -> None:
        raise AssertionError(topic)

    @property
    def messages(self) -> list[str | bytes]:
        return [notice.message for notice in self.notices]
