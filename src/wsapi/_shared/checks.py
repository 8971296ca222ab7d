"""Checks of arguments of ``connect`` and ``serve``, made before any I/O.

Owns what is acceptable, and texts that name the argument and say so. What the engine is given, it
checks itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wsproto_fast import Backpressure, Slow, check_settings
from wsproto_fast.datastructures import Headers
from wsproto_fast.headers import validate_subprotocols
from wsproto_fast.rates import Rate

from .options import CONNECTION_OPTIONS

__all__ = [
    "check_address",
    "check_callable",
    "check_compression",
    "check_connection_options",
    "check_extensions",
    "check_header",
    "check_instance",
    "check_logger",
    "check_names",
    "check_origins",
    "check_overrides",
    "check_port",
    "check_rates",
    "check_slow",
    "check_subprotocols",
    "check_write_limit",
    "checked_factory",
    "port_number",
]


def check_callable(name: str, value: object, *, optional: bool = True) -> None:
    """Refuse what can't be called.

    Args:
        name: Name of the argument.
        value: The argument.
        optional: Whether None is fine.

    Raises:
        TypeError: If it isn't acceptable.
    """
    if not (callable(value) or (optional and value is None)):
        wanted = "a callable or None" if optional else "a callable"
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def checked_factory(
    name: str, create: Callable[..., Any] | None, kind: type, called: str
) -> Callable[..., Any] | None:
    """Return a factory of connections that raises if it returns something else.

    Nothing that uses a connection looks at what it is. Classes return what they are.

    Args:
        name: Name of the argument.
        create: The factory, a class, or None.
        kind: Class of what it should return.
        called: Name of that class for users.

    Raises:
        TypeError: If it can't be called.
    """
    check_callable(name, create)
    if create is None or isinstance(create, type):
        return create

    def create_connection(*args: Any, **options: Any) -> Any:
        connection = create(*args, **options)
        if not isinstance(connection, kind):
            raise TypeError(f"{name} must return a {called}, not {type(connection).__name__}")
        return connection

    return create_connection


def check_names(function: str, options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Refuse options that there aren't.

    Args:
        function: Name of the function that they are given to.
        options: The options.
        names: Names of those that there are; a ``TypedDict`` class has them as annotations.

    Returns:
        The options.

    Raises:
        TypeError: If there is no such option.
    """
    if unknown := options.keys() - set(names):
        # In Python's words, by which programs tell what a version doesn't have.
        listed = ", ".join(map(repr, sorted(unknown)))
        raise TypeError(f"{function}() got an unexpected keyword argument {listed}")
    return dict(options)


def check_overrides(subclass: type, names: frozenset[str]) -> None:
    """Refuse a class that overrides methods of the reference that have no counterpart here.

    Nobody would call them, and the program wouldn't know.

    Args:
        subclass: The class.
        names: Names of methods.

    Raises:
        TypeError: If it does.
    """
    if subclass.__module__.startswith("wsapi."):
        return
    for name in names & vars(subclass).keys():
        if all(getattr(base, name, None) is None for base in subclass.__bases__):
            raise TypeError(f"{subclass.__qualname__}.{name}() isn't called by anything in wsapi")


def check_instance(
    name: str, value: object, types: type | tuple[type, ...], description: str
) -> None:
    """Refuse values of other types; None is fine.

    Args:
        name: Name of the argument.
        value: The argument.
        types: Acceptable types.
        description: What they are called.

    Raises:
        TypeError: If it isn't acceptable.
    """
    if value is not None and not isinstance(value, types):
        raise TypeError(f"{name} must be {description} or None, not {type(value).__name__}")


def _items(name: str, value: object) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list or None, not {_type_name(value)}")
    return value


def _type_name(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, (str, bytes)) else type(value).__name__


def check_origins(origins: object) -> None:
    """Check acceptable values of the ``Origin`` header.

    Args:
        origins: Sequence of str, compiled regular expressions of str, and None; or None.

    Raises:
        TypeError: If it isn't acceptable.
    """
    if origins is None:
        return
    for origin in _items("origins", origins):
        if origin is None or isinstance(origin, str):
            continue
        if not (isinstance(origin, re.Pattern) and isinstance(origin.pattern, str)):
            raise TypeError(
                "origins must contain str, compiled regular expressions of str, or None, "
                f"not {type(origin).__name__}"
            )


def check_extensions(extensions: object, methods: Iterable[str]) -> None:
    """Check extension factories.

    Args:
        extensions: Sequence of factories, or None.
        methods: What factories must have, beside ``name``.

    Raises:
        TypeError: If it isn't acceptable.
    """
    if extensions is None:
        return
    wanted = ("name", *methods)
    for factory in _items("extensions", extensions):
        if isinstance(factory, type) or not all(hasattr(factory, name) for name in wanted):
            raise TypeError(
                f"extensions must contain extension factories, which have {', '.join(wanted)}; "
                f"got {factory!r}"
            )


def check_subprotocols(subprotocols: object) -> None:
    """Check names of subprotocols.

    Args:
        subprotocols: Sequence of str, or None.

    Raises:
        TypeError: If it isn't a sequence of str.
        ValueError: If one isn't a token.
    """
    if isinstance(subprotocols, Sequence) and not isinstance(subprotocols, str):
        for subprotocol in subprotocols:
            if not isinstance(subprotocol, str):
                raise TypeError(f"subprotocols must contain str, not {type(subprotocol).__name__}")
    if subprotocols is not None:
        validate_subprotocols(subprotocols)  # type: ignore[arg-type] # that is what it finds out


def check_compression(compression: object) -> bool:
    """Tell whether messages are to be compressed.

    Args:
        compression: "deflate" or None.

    Raises:
        ValueError: If it is something else.
    """
    if compression is not None and compression != "deflate":
        raise ValueError(f"unsupported compression: {compression}; use 'deflate' or None")
    return compression is not None


def check_logger(logger: object) -> None:
    """Check a logger.

    Args:
        logger: Logger, LoggerAdapter, or None.

    Raises:
        TypeError: If it isn't acceptable.
    """
    check_instance(
        "logger", logger, (logging.Logger, logging.LoggerAdapter), "a Logger, a LoggerAdapter"
    )


def check_slow(slow: object, max_backlog: Any, on_drop: object) -> None:
    """Check what becomes of messages for a peer that doesn't read.

    Raises:
        TypeError, ValueError: If one isn't acceptable.
    """
    if not isinstance(slow, Slow):
        raise TypeError(f"slow must be a member of Slow, not {slow!r}")
    Backpressure(slow, max_backlog)
    check_callable("on_drop", on_drop)


def check_connection_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options of connections before there are any.

    Args:
        options: Options of ``connect`` or ``serve``, complete.

    Returns:
        Those that are options of connections.

    Raises:
        TypeError, ValueError: If one isn't acceptable.
    """
    # Classes of programs that were made for the others needn't know these.
    names = ("slow", "max_backlog", "write_deadline", "on_drop")
    slow, max_backlog, write_deadline, on_drop = (options[name] for name in names)
    # Without removing any: what a dict has had makes it slow to be passed on.
    chosen = {name: options[name] for name in CONNECTION_OPTIONS if name not in names}
    check_slow(slow, max_backlog, on_drop)
    check_settings(
        max_size=options["max_size"],
        open_timeout=options["open_timeout"],
        write_deadline=write_deadline,
        **chosen,
    )
    if slow is not Slow.WAIT:
        chosen |= {"slow": slow, "max_backlog": max_backlog}
    if write_deadline is not None:
        chosen["write_deadline"] = write_deadline
    if on_drop is not None:
        chosen["on_drop"] = on_drop
    return chosen


def check_rates(options: Mapping[str, Any]) -> tuple[Rate | None, Rate | None] | None:
    """Check limits on what a peer sends in a given time.

    Args:
        options: Options of ``connect`` or ``serve``, complete.

    Returns:
        The limits on messages and on bytes, for ``Protocol.limit_rates``; None without any.

    Raises:
        TypeError, ValueError: If one isn't acceptable.
    """
    rates = (
        Rate.of("message_rate", options["message_rate"]),
        Rate.of("byte_rate", options["byte_rate"]),
    )
    return rates if any(rates) else None


def check_header(name: str, value: object) -> None:
    """Check the value of a header.

    Args:
        name: Name of the argument.
        value: str or None.

    Raises:
        TypeError: If it isn't a str.
        ValueError: If headers can't have this value.
    """
    check_instance(name, value, str, "a str")
    if isinstance(value, str):
        try:
            Headers({"Value": value})
        except Exception:
            raise ValueError(
                f"{name} must have no control characters and none outside ISO-8859-1; got {value!r}"
            ) from None


def port_number(port: object) -> Any:
    """Return a port that may be given by digits, as event loops take it, as a number.

    Args:
        port: TCP port; anything else is returned as it is, for ``check_port``.
    """
    return int(port) if isinstance(port, str) and port.isdecimal() else port


def check_port(port: object) -> None:
    """Check a TCP port.

    Args:
        port: int or None.

    Raises:
        TypeError: If it isn't an int.
        ValueError: If there is no such port.
    """
    if isinstance(port, bool):
        raise TypeError("port must be an int or None, not bool")
    check_instance("port", port, int, "an int")
    if isinstance(port, int) and not 0 <= port <= 65535:
        raise ValueError(f"port must be 0 to 65535; got {port}")


def check_address(address: object) -> None:
    """Check an address to connect to.

    Args:
        address: Pair of host and port, or None.

    Raises:
        TypeError: If it isn't a pair, or one of the two is of another type.
        ValueError: If there is no such port.
    """
    if address is None:
        return
    if not isinstance(address, (tuple, list)) or len(address) != 2:
        raise TypeError(f"address must be a pair of host and port, or None; got {address!r}")
    host, port = address
    check_instance("host", host, str, "a str")
    check_port(port)


def check_write_limit(write_limit: object) -> None:
    """Check limits of a write buffer.

    Args:
        write_limit: Number of bytes, or a pair of the high mark and the low one, which may be None.

    Raises:
        TypeError: If these aren't ints.
        ValueError: If there are more, they are negative, or the low one is more than the high one.
    """
    if isinstance(write_limit, tuple) and len(write_limit) != 2:
        raise ValueError(f"write_limit must be one number or a pair of two; got {write_limit!r}")
    high, low = write_limit if isinstance(write_limit, tuple) else (write_limit, None)
    for mark in (high, low):
        if isinstance(mark, bool) or not isinstance(mark, (int, type(None))):
            raise TypeError(
                f"write_limit must be int, a pair of int, or None; got {type(mark).__name__}"
            )
    if (high is not None and high < 0) or (
        low is not None and not 0 <= low <= (4 * low if high is None else high)
    ):
        raise ValueError(
            f"write_limit must be (high, low) with high >= low >= 0; got ({high}, {low})"
        )
