"""Objects that were made without ``__init__``, as subclasses and copies may do: no call crashes."""

from __future__ import annotations

import copy
import socket
import ssl
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from wsproto_fast import Protocol, Side
from wsproto_fast.drivers.endpoints import Endpoint
from wsproto_fast.drivers.threads import SocketDriver
from wsproto_fast.drivers.tls import TLS, SecureSocket

CALL_EVERYTHING = """
import importlib, inspect, os
from wsproto_fast import _loading
import wsproto_fast.drivers.asyncio, wsproto_fast.drivers.threads, wsproto_fast.wsproto

seen = set()
for module in sorted(_loading.MODULES):
    for name, cls in sorted(vars(importlib.import_module(module)).items()):
        if not inspect.isclass(cls) or cls.__module__ != module or cls in seen:
            continue
        seen.add(cls)
        for attribute in dir(cls):
            if attribute.startswith("__") and attribute in dir(type):
                continue
            print(module, name, attribute, flush=True)
            for count in range(5):
                for argument in (None, 1, b"x", "x", OSError()):
                    try:
                        bare = cls.__new__(cls)
                    except TypeError:
                        continue
                    try:
                        value = getattr(bare, attribute)
                        if callable(value):
                            value(*[argument] * count)
                    except Exception:
                        pass
print(len(seen), "classes")
"""


def test_nothing_crashes() -> None:
    command = [sys.executable, "-W", "ignore", "-c", CALL_EVERYTHING]
    result = subprocess.run(command, capture_output=True, text=True)
    *_, last = result.stdout.splitlines()
    assert result.returncode == 0, f"{last}: {result.returncode} {result.stderr[-2000:]}"
    assert int(last.split()[0]) > 50


def test_a_copy_of_a_secure_socket() -> None:
    """Its attributes are looked for before it has any."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        secure = SecureSocket(ours, TLS(ssl.create_default_context(), server_hostname="localhost"))
        copied = copy.copy(secure)
        assert copied.fileno() == ours.fileno()
        with pytest.raises(AttributeError, match="no attribute 'sock'"):
            SecureSocket.__new__(SecureSocket).sock  # noqa: B018


def test_memory_that_is_received_into() -> None:
    """A view of it takes no reference to None, which counts them before Python 3.12."""
    memory: Any = import_module("wsproto_fast.drivers._socket_calls").Memory(16)
    before = sys.getrefcount(None)
    views = [memoryview(memory) for _ in range(1000)]
    assert sys.getrefcount(None) - before < len(views) // 2
    views[0][:5] = b"bytes"
    assert views[1][:5] == b"bytes"


def test_an_endpoint_that_has_no_inbox() -> None:
    class Forgetful(Endpoint):
        def __init__(self) -> None:
            pass

        def setblocking(self, flag: bool) -> None:
            pass

    protocol = Protocol(Side.SERVER)
    with pytest.raises(TypeError, match=r"Forgetful has no inbox: Endpoint.__init__\(\)"):
        SocketDriver(protocol, Forgetful(), None)  # type: ignore[arg-type]
    protocol.receive_data(b"")
