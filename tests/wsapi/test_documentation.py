"""Signatures and docstrings that come from the table of options and the shared sections."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Annotated, Any, Unpack

import pytest

from wsapi._documentation import SECTIONS, expand
from wsapi._options import ConnectionOptions, Option, complete, documented, other_options

FRONT_ENDS = ["asyncio", "sync", "trio"]
MODULES = [
    f"wsapi.{front_end}.{name}"
    for front_end in FRONT_ENDS
    for name in ("client", "connection", "router", "server")
]


class Options(ConnectionOptions, total=False):
    colour: Annotated[str, Option("red", "Colour.")]
    family: int  # passed on


@documented(Options)
def paint(what: str, *, size: int = 1, **kwargs: Unpack[Options]) -> dict[str, Any]:
    """Paint.

    Args:
        what: What to paint.
        {options}
        **kwargs: Passed on.
    """
    return dict(complete(Options, kwargs, "paint"))


@documented(ConnectionOptions)
class Painter:
    """Paints.

    Args:
        {options}
    """

    def __init__(self, *, max_queue: int = 16, **kwargs: Any) -> None:
        pass

    def recv(self) -> None:
        """Receive.

        {recv}
        """


def test_signature_has_options() -> None:
    parameters = inspect.signature(paint).parameters
    assert list(parameters) == [
        *("what", "size"),
        *("ping_interval", "ping_timeout", "close_timeout", "max_queue", "colour"),
        "kwargs",
    ]
    assert parameters["colour"].default == "red"
    assert parameters["colour"].annotation is str
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD


def test_signature_of_classes() -> None:
    parameters = inspect.signature(Painter).parameters
    # A parameter that is there stays where it is, and nothing is passed on.
    assert list(parameters) == ["max_queue", "ping_interval", "ping_timeout", "close_timeout"]


def test_docstring_has_options() -> None:
    assert inspect.getdoc(paint) == (
        """\
Paint.

Args:
    what: What to paint.
    ping_interval: Seconds between keepalive pings; None for none.
    ping_timeout: Seconds after a keepalive ping in which something must be received,
        and in four times as many its answer, unless it is all one frame; None for no
        limit. While reading is paused, it is enough that the peer's host acknowledges
        what is sent, which Linux tells; elsewhere nothing is expected then.
    close_timeout: Seconds that closing may last; None for no limit.
    max_queue: Number of received frames in the queue above which reading pauses, or a
        pair of this and of the number at which it resumes; None for no limit.
    colour: Colour.
    **kwargs: Passed on."""
    )
    assert "decode: None for str" in (Painter.recv.__doc__ or "")


def test_options_are_completed() -> None:
    assert paint("it", colour="blue", family=2) == {
        "ping_interval": 20,
        "ping_timeout": 20,
        "close_timeout": 10,
        "max_queue": 16,
        "colour": "blue",
        "family": 2,
    }
    assert other_options(Options, {"colour": "blue", "family": 2}) == {"family": 2}


def test_unknown_options() -> None:
    with pytest.raises(
        TypeError, match=r"paint\(\) got unexpected keyword arguments: \['x', 'y'\]"
    ):
        paint("it", y=1, x=2)  # type: ignore[call-arg]


def test_unknown_sections() -> None:
    with pytest.raises(KeyError, match="nothing"):
        expand("  {nothing}", SECTIONS)


def documented_objects(module: str) -> Iterator[tuple[str, Any]]:
    home = importlib.import_module(module)
    for name, thing in vars(home).items():
        if not name.startswith("_") and getattr(thing, "__module__", None) == module:
            yield name, thing
            if inspect.isclass(thing):
                for attribute, method in vars(thing).items():
                    if not attribute.startswith("_") and inspect.isfunction(method):
                        yield f"{name}.{attribute}", method


@pytest.mark.parametrize("module", MODULES)
def test_no_marker_is_left(module: str) -> None:
    found = [
        name
        for name, thing in documented_objects(module)
        if re.search(r"(?m)^[ \t]*\{\w+\}[ \t]*$", thing.__doc__ or "")
    ]
    assert not found, "decorate with @documented"


@pytest.mark.parametrize("module", MODULES)
def test_parameters_are_documented(module: str) -> None:
    """What a docstring says of parameters, it says of all, and of no others."""
    for name, thing in documented_objects(module):
        arguments = re.search(
            r"Args:\n((?:        .*\n|    \S.*\n|\n)+)", f"{inspect.getdoc(thing)}\n"
        )
        if arguments is None:
            continue
        described = set(re.findall(r"(?m)^    \*{0,2}(\w+): ", arguments[1]))
        parameters = inspect.signature(thing).parameters.keys() - {"self"}
        if "those that aren't listed here" in arguments[1]:
            parameters &= described
        assert described == parameters, name
