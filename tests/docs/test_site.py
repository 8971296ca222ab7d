"""The site: it builds without a warning, has no dead link, and needs no other host."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs import blocks
from tests.docs.blocks import ROOT

HIDDEN = re.compile(r"(?:<|&lt;)!-- (?:setup|check):\n")

pytestmark = [
    pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="mkdocs.yml isn't here"),
    pytest.mark.skipif(
        importlib.util.find_spec("mkdocstrings_handlers") is None,
        reason="MkDocs isn't installed: extra docs",
    ),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "SITE_URL": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    return folder


TAG = re.compile(r"<(\w+)((?:\s+[\w:-]+(?:=(?:\"[^\"]*\"|'[^']*'|[^\s\"'>]+))?)*)\s*/?>")
ATTRIBUTE = re.compile(r"([\w:-]+)=(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")


class Page:
    """What a page has and asks for."""

    def __init__(self, text: str) -> None:
        self.links: list[str] = []
        self.needed: list[str] = []
        self.anchors: set[str] = set()
        for tag, rest in TAG.findall(text):
            values = {
                name: unescape(first or second or third)
                for name, first, second, third in ATTRIBUTE.findall(rest)
            }
            self.anchors.update(values[name] for name in ("id", "name") if name in values)
            target = values.get("href") or values.get("src")
            if target is None:
                continue
            self.links.append(target)
            if tag in ("script", "img", "iframe", "link", "source") and values.get("rel") not in (
                *("canonical", "next", "prev", "alternate"),
            ):
                self.needed.append(target)


@cache
def page_at(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def pages(site: Path) -> Iterator[tuple[Path, Page]]:
    for path in sorted(site.rglob("*.html")):
        yield path, page_at(path)


def test_no_link_is_dead(site: Path) -> None:
    dead = []
    number = 0
    for path, page in pages(site):
        if path.name == "404.html":
            continue  # its links are absolute
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            number += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or (
                parts.fragment
                and target.suffix == ".html"
                and not parts.fragment.startswith("__")
                and unquote(parts.fragment) not in page_at(target).anchors
            ):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert number > 1000
    assert dead == []


def test_no_other_host_is_needed(site: Path) -> None:
    for path, page in pages(site):
        assert [link for link in page.needed if re.match(r"(https?:)?//", link)] == [], path
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import) *[\"']?(?:https?:)?//", text) == [], path


def test_llms_txt(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# wsproto-fast\n\n> ")
    links = re.findall(r"(?m)^- \[[^\]]+\]\(([^)]+)\)", text)
    assert all((site / link).is_file() for link in links)
    listed = {link for link in links if not link.startswith("examples/")}
    built = {
        path.relative_to(site).as_posix()
        for path in site.rglob("*.html")
        if path.relative_to(site).parts[0] != "examples" and path.name != "404.html"
    }
    assert listed == built


def test_llms_full_txt(site: Path) -> None:
    text = (site / "llms-full.txt").read_text(encoding="utf-8")
    # Of a page, an included file, and a docstring.
    for part in ("# Limits\n", "| OPEN | application closes |", "Send a message."):
        assert part in text
    assert "::: wsapi" not in text
    assert not HIDDEN.search(text)


def test_hidden_blocks_stay_hidden(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not HIDDEN.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_repository(name: str) -> None:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"there is no {name} yet")
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", text)
    for link in filter(None, (first or second for first, second in links)):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        found = ROOT / target if target else path
        assert found.exists(), link
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", found.read_text(encoding="utf-8"))
            assert anchor in {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
            }, link


def test_blocks_know_all_pages() -> None:
    assert {"README.md", "index.md", "reference/asyncio/client.md"} <= set(blocks.pages())
