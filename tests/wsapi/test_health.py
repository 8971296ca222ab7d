"""What load balancers ask: arguments; what is answered is tested on all front-ends."""

from __future__ import annotations

import threading
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest

from wsapi.datastructures import Headers
from wsapi.health import readiness
from wsapi.http11 import Request, Response


@pytest.mark.parametrize(
    "arguments, error",
    [
        ((b"/healthz",), TypeError),
        (("healthz",), ValueError),
        (("",), ValueError),
        (("/healthz", "callback"), TypeError),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        readiness(*arguments)


class FakeConnection:
    """What is asked of a connection."""

    def __init__(self, *, draining: bool) -> None:
        self.server = SimpleNamespace(draining=threading.Event())
        if draining:
            self.server.draining.set()

    def respond(self, status: HTTPStatus, text: str) -> Response:
        return Response(status, status.phrase, Headers(), text.encode())


@pytest.mark.parametrize(
    "draining, status, body", [(False, 200, b"ready\n"), (True, 503, b"draining\n")]
)
@pytest.mark.parametrize("target", ["/up", "/up?who=balancer"])
def test_answer(draining: bool, status: int, body: bytes, target: str) -> None:
    ask = readiness("/up", lambda connection, request: pytest.fail("not for this path"))
    response = ask(FakeConnection(draining=draining), Request(target, Headers()))
    assert (response.status_code, response.body) == (status, body)
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("target", ["/", "/up/", "/upper", "/?/up", "/healthz"])
def test_other_paths(target: str) -> None:
    connection, request = FakeConnection(draining=False), Request(target, Headers())
    assert readiness("/up")(connection, request) is None
    asked = readiness("/up", lambda *arguments: arguments)
    assert asked(connection, request) == (connection, request)
