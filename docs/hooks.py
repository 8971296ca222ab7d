"""Hooks of MkDocs: pages of what isn't in docs/, links to them, and llms.txt."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Documents of the repository that are pages of the site.
DOCUMENTS = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
}
LANGUAGES = {
    "conf": "nginx",
    "css": "css",
    "html": "html",
    "ini": "ini",
    "js": "js",
    "json": "json",
    "pxd": "cython",
    "py": "python",
    "pyx": "cython",
    "service": "ini",
    "socket": "ini",
    "cfg": "text",
    "md": "md",
    "sh": "sh",
    "toml": "toml",
    "yaml": "yaml",
    "yml": "yaml",
}
LINK = re.compile(r"(?<!!)\]\((?!\w+:|#)(?P<path>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<path>[^)\s]+)\.svg\)")
FENCE = re.compile(r"(?ms)^ *(?P<fence>`{3,}|~{3,}).*?^ *(?P=fence) *$")
COMMENT = re.compile(r"(?s)^ *<!--.*?-->\n?", re.MULTILINE)


def examples() -> Iterator[Path]:
    """Give the files of examples/ that a page can show."""
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.is_file() and path.suffix[1:] in LANGUAGES and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in DOCUMENTS.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.[!m]*")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    rows = []
    for path in examples():
        text = (ROOT / path).read_text(encoding="utf-8").rstrip()
        name = path.relative_to("examples").as_posix()
        content = f"# {name}\n\n`````{LANGUAGES[path.suffix[1:]]}\n{text}\n`````\n"
        files.append(
            File.generated(
                *(config, f"examples/{name}.md"),
                content=content,
                inclusion=InclusionLevel.NOT_IN_NAV,
            )
        )
        rows.append(f"| [{name}](examples/{name}.md) | {summary(path.suffix, text)} |")
    table = "\n".join(["| program | what it does |", "|---|---|", *rows])
    content = (
        f"# Examples\n\nSmall programs to begin with. The tests run each of them.\n\n{table}\n"
    )
    files.append(File.generated(config, "examples.md", content=content))
    return files


def summary(suffix: str, text: str) -> str:
    """Return the first sentence that a file has of itself."""
    if suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    elif found := re.search(r"<title>(.*?)</title>", text):
        text = f"Page: {found[1]}"
    elif found := re.search(r'(?m)^(?:# (?!cython:)|"""|<!-- |// )(.*)', text):
        text = found[1].partition("-->")[0].partition('"""')[0]
    else:
        text = ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages; leave out comments."""
    pages = {page: source for source, page in DOCUMENTS.items()}
    source = pages.get(page.file.src_uri, posixpath.join("docs", page.file.src_uri))
    if page.file.src_uri.startswith("examples"):
        return markdown

    def turned(link: re.Match[str]) -> str:
        """Return the end of a link, to the page that shows what it names."""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"]))
        found = _page_of(target)
        if found is None:
            raise PluginError(f"{source}: there is no page for {link['path']}")
        relative = posixpath.relpath(found, posixpath.dirname(page.file.src_uri) or ".")
        return f"]({relative}{link['anchor'] or ''})"

    def doubled(image: re.Match[str]) -> str:
        """Return a picture in light and dark, if there are both."""
        path = posixpath.join(posixpath.dirname(source), f"{image['path']}-dark.svg")
        if not (ROOT / path).is_file():
            return image[0]
        start = f"![{image['alt']}]({image['path']}"
        return f"{start}.svg#only-light){start}-dark.svg#only-dark)"

    markdown = IMAGE.sub(doubled, markdown)
    parts = []
    position = 0
    for fence in FENCE.finditer(markdown):
        parts += [_prose(markdown[position : fence.start()], turned), fence[0]]
        position = fence.end()
    return "".join([*parts, _prose(markdown[position:], turned)])


def _prose(text: str, turned: object) -> str:
    return LINK.sub(turned, COMMENT.sub("", text))


def _page_of(path: str) -> str | None:
    """Return the page, from docs/, that shows a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in DOCUMENTS:
        return DOCUMENTS[path]
    if path.startswith("benchmarks/results/") and (ROOT / path).is_file():
        return path.removeprefix("benchmarks/")
    if path == "benchmarks":
        return DOCUMENTS["benchmarks/README.md"]
    if path == "README.md":
        return "index.md"
    if path == "examples" or (path.startswith("examples/") and (ROOT / path).is_dir()):
        return "examples.md"
    if path.startswith("examples/") and (ROOT / path).is_file():
        return f"{path}.md"
    return None


# ---------------------------------------------------------------------- llms.txt

_texts: dict[str, str] = {}
_markdown: dict[str, str] = {}
_navigation: list[Navigation] = []


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> Navigation:
    _navigation[:] = [nav]
    return nav


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    markdown = page.markdown or ""
    _markdown[page.file.src_uri] = markdown
    # What is made from docstrings is nowhere but in the HTML.
    made = re.search(r"(?m)^::: ", markdown)
    _texts[page.file.src_uri] = text_of(html) if made else _expanded(markdown)
    return html


class _Text(HTMLParser):
    """Takes the text out of HTML, with a line for each block, and marks for headings and code."""

    BLOCKS = frozenset(
        ("article", "blockquote", "dd", "div", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "li", "p")
    ) | {"pre", "table", "tr", "ul"}
    SKIPPED = frozenset(("button", "nav", "script", "style", "svg"))
    EMPTY = frozenset(("br", "hr", "img", "input", "path", "wbr"))

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.skipping = 0
        self.preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.skipping or tag in self.SKIPPED or dict(attrs).get("class") == "headerlink":
            self.skipping += tag not in self.EMPTY
            return
        if tag in self.BLOCKS:
            self.parts.append("\n")
        if re.fullmatch("h[1-6]", tag):
            self.parts.append("#" * int(tag[1]) + " ")
        elif tag == "li":
            self.parts.append("- ")
        elif tag == "pre":
            self.preformatted += 1
            self.parts.append("```\n")

    def handle_endtag(self, tag: str) -> None:
        if self.skipping:
            self.skipping -= 1
            return
        if tag == "pre":
            self.preformatted -= 1
            self.parts.append("\n```")
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.skipping:
            self.parts.append(data if self.preformatted else re.sub(r"\s+", " ", data))


def text_of(html: str) -> str:
    """Return the text of HTML."""
    parser = _Text()
    parser.feed(html)
    lines = "".join(parser.parts).split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip()


def heading_of(markdown: str) -> str:
    """Return the title of a page."""
    found = re.search(r"(?m)^# (.+)$", markdown)
    return found[1].strip() if found else ""


def on_post_build(config: MkDocsConfig) -> None:
    site = Path(config.site_dir)
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    whole = list(lines)
    for title, pages in _sections(_navigation[0]):
        lines += [f"## {title}", ""]
        for page in pages:
            markdown = _markdown[page.file.src_uri]
            url = posixpath.join(config.site_url or "", page.url)
            name = heading_of(markdown) or page.title
            lines.append(f"- [{name}]({url}): {first_sentence(markdown)}".rstrip(": "))
            whole += [f"<!-- {url} -->", "", _texts[page.file.src_uri].strip(), ""]
        lines.append("")
    (site / "llms.txt").write_text("\n".join(lines), encoding="utf-8")
    (site / "llms-full.txt").write_text("\n".join(whole), encoding="utf-8")


def _sections(nav: Navigation) -> Iterator[tuple[str, list[Page]]]:
    alone = [item for item in nav.items if isinstance(item, Page)]
    if alone:
        yield "Start", alone
    for item in nav.items:
        if isinstance(item, Section):
            yield item.title, list(_pages_in(item))


def _pages_in(section: Section) -> Iterator[Page]:
    for item in section.children:
        if isinstance(item, Page):
            yield item
        elif isinstance(item, Section):
            yield from _pages_in(item)


def first_sentence(markdown: str) -> str:
    """Return the first sentence below the title, without markup."""
    text = re.sub(r"\A\s*#[^\n]*\n", "", FENCE.sub("", markdown)).strip()
    paragraph = " ".join(text.partition("\n\n")[0].split())
    paragraph = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
    if not paragraph or not re.match(r"[\w`*]", paragraph):
        return ""
    return re.split(r"(?<=[.:]) (?=[A-Z`])", paragraph)[0].rstrip(":")


def _expanded(markdown: str) -> str:
    """Return a page with the files in place that it includes."""

    def content(include: re.Match[str]) -> str:
        path = ROOT / include[1].partition(":")[0]
        return path.read_text(encoding="utf-8").rstrip()

    return re.sub(r'(?m)^-{2,}8<-{2,} "([^"]+)"$', content, markdown)
