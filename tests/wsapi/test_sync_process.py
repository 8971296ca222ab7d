"""Threads in processes of their own: signals that end them, forks, and no more file descriptors."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

import pytest

from tests.wsapi.sync_helpers import PATIENCE, Spawned, eventually, serving, uri_of
from wsapi.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidStatus,
)
from wsapi.sync.client import connect
from wsapi.sync.server import ServerConnection

if not hasattr(os, "fork"):
    pytest.skip("signals and forks are others here", allow_module_level=True)

HEAD = """
import logging, os, resource, signal, socket, sys, threading, time
from wsapi.sync.client import connect
from wsapi.sync.server import serve

def echo(ws):
    for message in ws:
        ws.send(message)

def exhaust():
    files = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    try:
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return files

def release(files):
    for file in files:
        os.close(file)

def ready(server):
    print(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/", flush=True)
"""


class Program:
    """A process that tells what it does line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.stdout: IO[str] = process.stdout

    def line(self) -> str:
        line: str = Spawned(self.stdout.readline).result()
        return line.rstrip("\n")

    def end(self) -> tuple[int, str, str]:
        """Return the exit status, what it wrote since, and its errors."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@contextlib.contextmanager
def program(source: str, *args: str) -> Iterator[Program]:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", HEAD + source, *args]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


# ---------------------------------------------------------------------- signals

SERVERS = {
    "shutdown": """
with serve(echo, "127.0.0.1", 0) as server:
    signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
    ready(server)
    server.serve_forever()
print("done")
""",
    "shutdown and exit": """
def stop(*args):
    server.shutdown(code=1001)
    print("done")
    sys.exit()

server = serve(echo, "127.0.0.1", 0)
signal.signal(signal.SIGTERM, stop)
ready(server)
server.serve_forever()
""",
    "exception": """
class Stop(Exception):
    pass

def stop(*args):
    raise Stop

signal.signal(signal.SIGTERM, stop)
try:
    with serve(echo, "127.0.0.1", 0) as server:
        ready(server)
        server.serve_forever()
except Stop:
    print("done")
""",
    "Ctrl-C": """
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    with serve(echo, "127.0.0.1", 0) as server:
        ready(server)
        server.serve_forever()
except KeyboardInterrupt:
    print("done")
""",
}


@pytest.mark.parametrize("how", SERVERS)
def test_signal_ends_a_server(how: str) -> None:
    with program(SERVERS[how]) as server:
        uri = server.line()
        with connect(uri) as idle, connect(uri) as busy:

            def chat() -> None:
                while True:
                    busy.send("hello")
                    assert busy.recv() == "hello"

            chatting = Spawned(chat)
            os.kill(server.process.pid, signal.SIGTERM)
            with pytest.raises(ConnectionClosedOK):
                idle.recv()
            with pytest.raises(ConnectionClosed):
                chatting.result()
            assert idle.close_code == busy.close_code == 1001
        assert server.end() == (0, "done\n", "")


def test_second_signal_closes_what_the_first_one_left() -> None:
    source = """
calls = []

def stop(*args):
    calls.append(1)
    os.write(1, b"told\\n")
    server.shutdown(close_connections=False) if len(calls) == 1 else shut_down.set()

shut_down = threading.Event()

def follow():
    shut_down.wait()
    server.shutdown()

with serve(echo, "127.0.0.1", 0) as server:
    threading.Thread(target=follow).start()
    signal.signal(signal.SIGTERM, stop)
    ready(server)
    server.serve_forever()
print("done")
"""
    with program(source) as server:
        with connect(server.line()) as ws:
            os.kill(server.process.pid, signal.SIGTERM)
            assert server.line() == "told"  # two signals at once would be one
            ws.send("still here")
            assert ws.recv() == "still here"
            os.kill(server.process.pid, signal.SIGTERM)
            with pytest.raises(ConnectionClosedOK):
                ws.recv()
        assert server.end() == (0, "told\ndone\n", "")


DRAINING_SERVERS = {
    "drain": """
with serve(echo, "127.0.0.1", 0) as server:
    signal.signal(signal.SIGTERM, lambda *_: server.drain(60, 0))
    ready(server)
    server.serve_forever()
print("done")
""",
    "drain_on_signal": """
before = signal.getsignal(signal.SIGTERM)
with serve(echo, "127.0.0.1", 0) as server:
    server.drain_on_signal(timeout=60, spread=0)
    assert signal.getsignal(signal.SIGTERM) is not before
    ready(server)
    server.serve_forever()
    assert signal.getsignal(signal.SIGTERM) is before
print("done")
""",
    "drain_on_signal, without a context": """
server = serve(echo, "127.0.0.1", 0)
server.drain_on_signal(timeout=60, spread=0)
ready(server)
server.serve_forever()
print("done")
""",
    "drain_on_signal, served by another thread": """
with serve(echo, "127.0.0.1", 0) as server:
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    server.drain_on_signal(timeout=60, spread=0)
    ready(server)
    serving.join()
print("done")
""",
    "drain and exit": """
def stop(*args):
    server.drain(60, 0)
    print("done")
    sys.exit()

server = serve(echo, "127.0.0.1", 0)
signal.signal(signal.SIGTERM, stop)
ready(server)
server.serve_forever()
""",
}


@pytest.mark.parametrize("how", DRAINING_SERVERS)
def test_signal_drains_a_server(how: str) -> None:
    with program(DRAINING_SERVERS[how]) as server:
        uri = server.line()
        with connect(uri) as idle:
            os.kill(server.process.pid, signal.SIGTERM)
            with pytest.raises(ConnectionClosedError):
                idle.recv()
            assert idle.close_code == 1012
        assert server.end() == (0, "done\n", "")


def test_server_that_drains_goes_on_listening() -> None:
    source = """
with serve(echo, "127.0.0.1", 0) as server:
    server.drain_on_signal(timeout=60, spread=60)
    ready(server)
    server.serve_forever()
print("done")
"""
    with program(source) as server:
        uri = server.line()
        with connect(uri) as ws:
            os.kill(server.process.pid, signal.SIGTERM)

            def refused() -> bool:
                try:
                    with connect(uri):
                        return False
                except InvalidStatus as exc:
                    return exc.response.status_code == 503

            eventually(refused)
            ws.send("still here")
            assert ws.recv() == "still here"
            # It had no signal since.
            os.kill(server.process.pid, signal.SIGTERM)
            with pytest.raises(ConnectionClosedError):
                ws.recv()
            assert ws.close_code == 1012
        assert server.end() == (0, "done\n", "")


def test_signal_before_a_server_serves() -> None:
    source = """
server = serve(echo, "127.0.0.1", 0)
server.drain_on_signal(timeout=60, spread=60)
os.kill(os.getpid(), signal.SIGTERM)
server.serve_forever()
print("done")
"""
    with program(source) as server:
        assert server.end() == (0, "done\n", "")


# ---------------------------------------------------------------------- forks


def test_processes_that_share_a_listening_socket() -> None:
    source = """
server = serve(lambda ws: ws.send(str(os.getpid())), "127.0.0.1", 0)
signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
children = []
for _ in range(2):
    children.append(os.fork())
    if children[-1] == 0:
        server.serve_forever()
        os._exit(0)
ready(server)
sys.stdin.read()
for child in children:
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == 0
server.shutdown()
print("done")
"""
    with program(source) as server:
        uri = server.line()
        for _ in range(10):
            with connect(uri) as ws:
                assert int(ws.recv(timeout=PATIENCE, decode=True)) != server.process.pid
        status, out, err = server.end()
        assert (status, out, err) == (0, "done\n", "")


def test_peer_sees_the_end_although_a_forked_process_has_the_socket() -> None:
    children = []

    def handler(ws: ServerConnection) -> None:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
        ws.send("forked")

    with serving(handler) as server:
        try:
            with connect(uri_of(server)) as ws:
                assert ws.recv() == "forked"
                assert ws.wait_closed(PATIENCE)
                assert ws.close_code == 1000
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def test_fork_while_threads_use_connections() -> None:
    """The parent doesn't notice; the child can connect, close what it has inherited, and end."""
    source = """
import gc, warnings
warnings.simplefilter("ignore", DeprecationWarning)
ws = connect(sys.argv[1], close_timeout=0.5)
received = []

def receive():
    for message in ws:
        received.append(message)

receiver = threading.Thread(target=receive)
receiver.start()
time.sleep(0.1)
before = len(os.listdir("/proc/self/fd"))
pid = os.fork()
if pid == 0:
    with connect(sys.argv[1]) as another:
        another.send("from the child")
        assert another.recv() == "from the child"
        assert another.ping().wait(10)
        # The epoll instance and the pair of sockets of the parent's housekeeper are closed.
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    del ws
    gc.collect()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
for number in range(100):
    ws.send(str(number))
while len(received) < 100:
    time.sleep(0.001)
ws.close()
receiver.join()
print(ws.close_code, received == [str(number) for number in range(100)])
"""
    with serving() as server:
        with program(source.replace("/proc/self/fd", FDS), uri_of(server)) as client:
            assert client.end() == (0, "1000 True\n", "")


def test_child_closes_a_connection_that_another_thread_was_reading_from() -> None:
    source = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
ws = connect(sys.argv[1], close_timeout=5)
receiver = threading.Thread(target=lambda: list(ws), daemon=True)
receiver.start()
time.sleep(0.1)
pid = os.fork()
if pid == 0:
    ws.close(4000)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    with serving() as server:
        with program(source, uri_of(server)) as client:
            assert client.end()[:2] == (0, "7\n")


# ---------------------------------------------------------------------- file descriptors

FDS = "/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"


def test_server_without_file_descriptors() -> None:
    """It doesn't end, nor turn without end, and goes on when there are some again."""
    source = """
messages = []

class Messages(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())

logging.getLogger("wsapi.server").addHandler(Messages())
with serve(echo, "127.0.0.1", 0) as server:
    threading.Thread(target=server.serve_forever).start()
    time.sleep(0.1)
    files = exhaust()
    ready(server)
    sys.stdin.readline()
    release(files)
    assert messages.count("accepting a connection failed") == len(messages) == 1, messages
    print("released", flush=True)
    sys.stdin.readline()
"""
    with program(source) as server:
        uri = server.line()
        client: Any = Spawned(connect, uri, legacy=True)
        another: Any = Spawned(connect, uri, legacy=True)
        time.sleep(0.4)
        assert client.running
        assert server.process.stdin is not None
        server.process.stdin.write("\n")
        server.process.stdin.flush()
        assert server.line() == "released"
        for each in (client, another):
            ws = each.result()
            ws.send("hello")
            assert ws.recv() == "hello"
            ws.close()
        assert server.end() == (0, "", "")


def test_client_without_file_descriptors() -> None:
    """It fails to connect until there are some again; its housekeeper is there then."""
    source = """
import errno

files = exhaust()
for left in range(8):
    try:
        connect(sys.argv[1], legacy=True).close()
    except OSError as exc:
        assert exc.errno == errno.EMFILE
        print(left)
    os.close(files.pop())
    while "wsproto_fast-housekeeper" in {thread.name for thread in threading.enumerate()}:
        time.sleep(0.01)
release(files)
with connect(sys.argv[1]) as ws:
    assert ws.ping().wait(10)
while "wsproto_fast-housekeeper" in {thread.name for thread in threading.enumerate()}:
    time.sleep(0.01)
print(threading.active_count())
"""
    with serving() as server:
        with program(source, uri_of(server)) as client:
            status, out, err = client.end()
            assert (status, err) == (0, "")
            assert out.splitlines()[0] == "0"
            assert out.splitlines()[-1] == "1"
            assert len(out.splitlines()) > 3
