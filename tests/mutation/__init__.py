"""What the mutation testing of Python modules knows of changes that change nothing.

``equivalents.txt`` has changes that no test can find. A line that begins with ``@`` names the
module under ``src/`` that the following ones are about; then come, for each change, lines of the
original after ``-``, of the changed text after ``+``, and after ``=`` why it means the same.
"""

from __future__ import annotations

import ast
import difflib
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "EQUIVALENTS",
    "Change",
    "Equivalent",
    "difference",
    "equivalents",
    "matching",
    "meaning",
]

EQUIVALENTS = Path(__file__).with_name("equivalents.txt")


OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}


class Equivalent(NamedTuple):
    """A change that changes nothing.

    Args:
        module: Path under ``src/``.
        original: Lines that it changes, without their indentation.
        changed: What they are then.
        reason: Why that is the same.
    """

    module: str
    original: tuple[str, ...]
    changed: tuple[str, ...]
    reason: str


def equivalents(text: str) -> list[Equivalent]:
    """Return what a table has."""
    found: list[Equivalent] = []
    module, original, changed = "", list[str](), list[str]()
    for line in text.splitlines():
        rest = line[1:].strip()
        if line.startswith("@"):
            module = rest
        elif line.startswith("-"):
            original.append(rest)
        elif line.startswith("+"):
            changed.append(rest)
        elif line.startswith("="):
            found.append(Equivalent(module, tuple(original), tuple(changed), rest))
            original, changed = [], []
    return found


def matching(
    known: list[Equivalent], module: str, original: tuple[str, ...], changed: tuple[str, ...]
) -> Equivalent | None:
    """Return the equivalent that a change is, if it is one."""
    for one in known:
        if one[:3] == (module, original, changed):
            return one
    return None


class Change(NamedTuple):
    """A change of a module.

    Args:
        module: Path under ``src/``.
        original: Lines that it changes, without their indentation.
        changed: What they are then.
        line: Number of the first of them.
        code: The whole module, changed.
    """

    module: str
    original: tuple[str, ...]
    changed: tuple[str, ...]
    line: int
    code: str


class Bare(ast.NodeTransformer):
    """Takes away what decides nothing, annotations; and writes in one way what means the same."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        inner = node.operand
        if isinstance(node.op, ast.Not):
            if isinstance(inner, ast.Compare) and len(inner.ops) == 1:
                opposite = OPPOSITES.get(type(inner.ops[0]))
                if opposite is not None:
                    inner.ops = [opposite()]
                    return inner
            if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
                return inner.operand
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def meaning(code: str) -> str | None:
    """Return what code does, as text; None if it is none."""
    try:
        return ast.dump(Bare().visit(ast.parse(code)))
    except SyntaxError:
        return None


def difference(module: str, code: str, changed: str) -> Change:
    """Return a change, as the lines that it is about."""
    before, after = code.splitlines(), changed.splitlines()
    old, new, first = list[str](), list[str](), 0
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            first = first or a + 1
            old += [line.strip() for line in before[a:b]]
            new += [line.strip() for line in after[c:d]]
    return Change(module, tuple(old), tuple(new), first, changed)
