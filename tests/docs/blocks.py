"""Blocks of code in the documents: found, and executed. CONTRIBUTING.md has the conventions."""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import errno
import inspect
import io
import re
import secrets
import socket
import ssl
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Seconds for one block: far more than any needs.
DEADLINE = 30.0
# What the documents have servers listen on.
PORT = "8765"
METRICS_PORT = "9100"
# What they listen on here, instead. No system gives these ports to who lets it choose.
PORTS = range(20000, 32000)

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)$")
HIDDEN = re.compile(r"^ *<!-- (?P<kind>setup|check):(?P<first>.*)$")
INCLUDE = re.compile(r'^(?P<indent> *)-{2,}8<-{2,} "(?P<path>[^":]+)(?::(?P<section>\w+))?"$')


@dataclass(frozen=True)
class Block:
    """A fenced block, or a hidden one (a comment that begins with ``setup:`` or ``check:``)."""

    page: str
    line: int
    """Of its first line in the page, from 1."""
    language: str
    """As after the fence; "python" for hidden ones."""
    title: str | None
    """Of a program; None for a snippet."""
    text: str
    """With what it includes in place."""
    hidden: bool = False
    includes: tuple[str, ...] = ()
    """Files that it includes, from the root of the repository."""

    @property
    def is_python(self) -> bool:
        return self.language in ("python", "py")

    @property
    def is_snippet(self) -> bool:
        return self.is_python and self.title is None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return the pages: README.md, and those of docs/ by their path in it."""
    found = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    return ["README.md", *found] if found else []


def path_of(page: str) -> Path:
    return ROOT / page if page == "README.md" else DOCS / page


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    lines = path_of(page).read_text(encoding="utf-8").splitlines()
    return list(_blocks(page, lines))


def program(page: str, title: str) -> str:
    """Return the text of a program in a page, as printed.

    Args:
        page: Such as "guides/tls.md".
        title: What is printed above it, such as "server.py".
    """
    found = [block for block in blocks(page) if block.is_python and block.title == title]
    if len(found) != 1:
        raise LookupError(f"{page} has {len(found)} programs {title!r}")
    return found[0].text


def block(page: str, title: str) -> str:
    """Return the text of a block of any language that has a title."""
    found = [block for block in blocks(page) if block.title == title]
    if len(found) != 1:
        raise LookupError(f"{page} has {len(found)} blocks {title!r}")
    return found[0].text


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        start = number + 1
        if hidden := HIDDEN.match(line):
            body = [hidden["first"].strip()]
            while "-->" not in body[-1]:
                if number == len(lines):
                    raise ValueError(f"{page}:{start - 1}: the comment has no end")
                body.append(lines[number])
                number += 1
            body[-1] = body[-1].partition("-->")[0]
            text = textwrap.dedent("\n".join(body[1:])) if len(body) > 1 else ""
            if body[0]:
                text = body[0] + "\n" + text
                start -= 1
            yield Block(page, start, "python", None, text.rstrip() + "\n", hidden=True)
        elif opening := FENCE.match(line):
            body = []
            closing = re.compile(rf" *{opening['fence'][0]}{{{len(opening['fence'])},}} *")
            while number < len(lines) and not closing.fullmatch(lines[number]):
                body.append(lines[number].removeprefix(opening["indent"]))
                number += 1
            if number == len(lines):
                raise ValueError(f"{page}:{start - 1}: the fence isn't closed")
            number += 1
            language, _, options = opening["info"].strip().partition(" ")
            title = re.search(r'title="([^"]*)"', options)
            includes: list[str] = []
            text = "".join(f"{line}\n" for line in _included(page, body, includes))
            yield Block(
                *(page, start, language.lower(), title[1] if title else None, text),
                includes=tuple(includes),
            )


def _included(page: str, body: list[str], includes: list[str]) -> Iterator[str]:
    """Give lines, those of included files in place of what names these."""
    for line in body:
        include = INCLUDE.match(line)
        if include is None:
            yield line
            continue
        includes.append(include["path"])
        path = ROOT / include["path"]
        if not path.is_file():
            raise ValueError(f"{page} includes {include['path']}, which isn't there")
        text = path.read_text(encoding="utf-8").splitlines()
        if section := include["section"]:
            marks = [
                number
                for number, text_line in enumerate(text)
                if re.search(rf"-{{2,}}8<-{{2,}} \[(start|end): ?{section}\]", text_line)
            ]
            if len(marks) != 2:
                raise ValueError(f"{page}: {include['path']} has no section {section}")
            text = text[marks[0] + 1 : marks[1]]
        for text_line in text:
            yield include["indent"] + text_line if text_line else ""


# ---------------------------------------------------------------------- execution


class TLS:
    """Certificates for localhost, 127.0.0.1, and ::1, as files and as contexts."""

    def __init__(self, folder: Path) -> None:
        import trustme

        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1", "::1")
        self.ca = folder / "ca.pem"
        self.certificate = folder / "cert.pem"
        self.key = folder / "key.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.key)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(self.server)
        self.client = ssl.create_default_context(cafile=self.ca)
        self.authority = authority


def free_port() -> int:
    """Return a port of localhost on which nobody listens, and that nobody gets by chance.

    A port that the system chooses may be given to a client of another process before it is used.
    """
    while True:
        port = secrets.choice(PORTS)  # other random numbers may be the same in each process
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port of localhost, by IPv4 or IPv6."""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((address, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return False  # otherwise, there may be no IPv6
    return True


@contextlib.contextmanager
def echo_server(port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server that sends back what it gets, in threads of its own; give its URI."""
    from wsapi.sync.server import serve

    def echo(connection: Any) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "localhost", port, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            number = server.socket.getsockname()[1]
            yield f"{'ws' if context is None else 'wss'}://localhost:{number}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class _Companion:
    """What runs beside the next snippet."""

    call: Any
    ends_it: bool


class Page:
    """Executes snippets in one namespace, which it fills with what setups may use."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.runner = stack.enter_context(asyncio.Runner())
        self.companions: list[_Companion] = []
        self.output = io.StringIO()
        self.namespace: dict[str, Any] = {
            "__name__": "page",
            "__builtins__": builtins,
            "tmp_path": folder,
            "meanwhile": self.meanwhile,
            "until": until,
            "printed": self.printed,
            "stack": stack,
            "free_port": free_port,
            "port": free_port(),
            "echo": lambda *args: stack.enter_context(echo_server(*args)),
        }

    def offer(self, text: str) -> None:
        """Make what is offered by these names, if the text has them."""
        words = set(re.findall(r"\w+", text))
        if "uri" in words:
            self.namespace["uri"] = self.stack.enter_context(echo_server())
        if "tls" in words or "tls_uri" in words:
            tls = self.namespace["tls"] = TLS(self.folder)
            if "tls_uri" in words:
                self.namespace["tls_uri"] = self.stack.enter_context(echo_server(0, tls.server))

    def meanwhile(self, call: Any, *, end: bool = False) -> None:
        """Run a coroutine, or a function in a thread, beside the next snippet.

        Args:
            call: A coroutine where the snippet awaits something, else a function.
            end: Whether a coroutine's end cancels the snippet.
        """
        self.companions.append(_Companion(call, end))

    def printed(self) -> str:
        """Return what was printed since the last call."""
        text = self.output.getvalue()
        self.output.seek(0)
        self.output.truncate()
        return text

    def execute(self, block: Block) -> None:
        code = self.compiled(self.adapted(block))
        companions = []
        if not block.hidden:
            companions, self.companions = self.companions, []
        with contextlib.redirect_stdout(self.output):
            if not code.co_flags & inspect.CO_COROUTINE:
                self._beside_threads(code, companions)
            elif self._wants_trio(block):
                import trio

                trio.run(self._in_trio, code, companions)
            else:
                self.runner.run(self._in_asyncio(code, companions))

    def adapted(self, block: Block) -> Block:
        """Return what is printed, with free ports in place of the usual ones."""
        text = block.text
        if not block.hidden:
            text = text.replace(PORT, str(self.namespace["port"]))
            text = text.replace(METRICS_PORT, str(free_port()))
        return replace(block, text=text)

    @staticmethod
    def compiled(block: Block) -> CodeType:
        # Empty lines in front have tracebacks name the line of the page.
        return compile(
            "\n" * (block.line - 1) + block.text,
            str(path_of(block.page)),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )

    def _wants_trio(self, block: Block) -> bool:
        """Whether names that the block uses are trio's, or of a front-end for it."""
        used = {
            node.id for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Name)
        } | set(re.findall(r"(?:from|import) ([\w.]+)", block.text))
        modules = {getattr(self.namespace.get(name), "__module__", None) or name for name in used}
        return any(module == "trio" or "wsapi.trio" in module for module in modules)

    def _beside_threads(self, code: CodeType, companions: list[_Companion]) -> None:
        failures: list[BaseException] = []

        def run(companion: _Companion) -> None:
            try:
                companion.call()
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in companions]
        for thread in threads:
            thread.start()
        exec(code, self.namespace)
        for thread in threads:
            thread.join(DEADLINE)
        if failures:
            raise failures[0]

    async def _in_asyncio(self, code: CodeType, companions: list[_Companion]) -> None:
        async def snippet() -> None:
            await eval(code, self.namespace)

        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            task = group.create_task(snippet())
            for companion in companions:
                beside = group.create_task(companion.call)
                if companion.ends_it:
                    beside.add_done_callback(lambda _: task.cancel())

    async def _in_trio(self, code: CodeType, companions: list[_Companion]) -> None:
        import trio

        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:

                async def beside(companion: _Companion) -> None:
                    await companion.call
                    if companion.ends_it:
                        nursery.cancel_scope.cancel()

                for companion in companions:
                    nursery.start_soon(beside, companion)
                await eval(code, self.namespace)


async def until(condition: Callable[[], object]) -> None:
    """Wait, on asyncio or trio, until a condition holds."""
    import sys

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            sleep = trio.sleep
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition doesn't come true")
        await sleep(0.005)


def execute(page: str, folder: Path) -> int:
    """Execute the snippets of a page, in a folder; return how many there are.

    Args:
        page: Such as "guides/tls.md".
        folder: An empty one, which becomes the working directory.
    """
    found = [block for block in blocks(page) if block.is_snippet]
    with contextlib.ExitStack() as stack, contextlib.chdir(folder):
        here = Page(folder, stack)
        here.offer("\n".join(block.text for block in found if block.hidden))
        for block in found:
            here.execute(block)
    return sum(not block.hidden for block in found)
