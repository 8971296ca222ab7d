"""What the reference needs besides sources: docstrings of compiled modules; what not to show.

Signatures of compiled modules are read from their stubs, which have no docstrings.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import griffe

# Special methods that a program uses by a statement of its own.
SHOWN = {"__aenter__", "__aiter__", "__await__", "__call__", "__enter__", "__init__", "__iter__"}
# Calls of event loops, which are public for them alone.
CALLBACKS = {
    *("buffer_updated", "connection_lost", "connection_made", "data_received", "eof_received"),
    *("get_buffer", "pause_writing", "resume_writing"),
}


class Reference(griffe.Extension):
    """Completes packages when they are loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self._complete(pkg)

    def _complete(self, parent: griffe.Module | griffe.Class) -> None:
        if parent.is_class and "__new__" in parent.members and "__init__" not in parent.members:
            parent.set_member("__init__", parent.members["__new__"])
        if parent.is_class and any(str(base) == "NamedTuple" for base in parent.bases):
            parent.set_member("__init__", _constructor(parent))
        for name, member in list(parent.members.items()):
            if member.is_alias:
                continue
            if parent.is_class and not is_shown(parent, name):
                parent.del_member(name)
                continue
            if (
                member.docstring is None
                and not member.is_module
                and name != "__init__"
                and parent.module.path.startswith("wsproto_fast")
                and (text := docstring(parent, name))
            ):
                member.docstring = griffe.Docstring(
                    text, parent=member, parser="google", parser_options=_options(parent)
                )
            if isinstance(member, griffe.Module | griffe.Class):
                self._complete(member)


def _constructor(parent: griffe.Class) -> griffe.Function:
    """Return the constructor of a named tuple, which its fields are parameters of."""
    kind = griffe.ParameterKind.positional_or_keyword
    parameters = [griffe.Parameter("self", kind=kind)] + [
        griffe.Parameter(name, annotation=field.annotation, kind=kind, default=field.value)
        for name, field in parent.members.items()
        if isinstance(field, griffe.Attribute) and field.annotation is not None
    ]
    return griffe.Function(
        "__init__", parameters=griffe.Parameters(*parameters), parent=parent, lineno=parent.lineno
    )


def is_shown(parent: griffe.Class, name: str) -> bool:
    """Return whether the reference has a member of a class, if it is documented."""
    if name in CALLBACKS:
        # The engine has methods of these names for whoever drives it.
        return parent.path.startswith("wsproto_fast.") and ".drivers" not in parent.path
    return not name.startswith("__") or name in SHOWN


def _options(parent: griffe.Object) -> dict[str, Any]:
    """Return the options by which docstrings of the package are parsed."""
    while parent.docstring is None and parent.parent is not None:
        parent = parent.parent
    return dict(parent.docstring.parser_options) if parent.docstring else {}


def docstring(parent: griffe.Module | griffe.Class, name: str) -> str | None:
    """Return the docstring that the interpreter has of a member."""
    thing: Any = import_module(parent.module.path)
    if parent.is_class:
        for part in parent.path.removeprefix(f"{parent.module.path}.").split("."):
            thing = getattr(thing, part, None)
        if thing is None:
            return None
        thing = next((vars(cls)[name] for cls in thing.__mro__ if name in vars(cls)), None)
    else:
        thing = getattr(thing, name, None)
    if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.isdatadescriptor(thing):
        return inspect.getdoc(thing)
    return None
