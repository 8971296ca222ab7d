"""Files over HTTP: what is below a directory, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsapi.cli import _files
from wsapi.cli._files import Files, content_type


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a directory with files, beside one that is nobody's business."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / "index.html").write_text("index")
    (root / "sub" / "a b+é.txt").write_text("spaces")
    (root / "sub" / "deeper" / "index.html").write_text("deeper")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("secret")
    (root / ".env").write_text("secret")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "x.txt").write_text("known")
    return root


@pytest.mark.parametrize(
    "target, body",
    [
        ("/", b"index"),
        ("/?query", b"index"),
        ("/index.html?a=/../b#c", b"index"),
        ("/sub/a%20b+%C3%A9.txt", b"spaces"),
        ("/sub/deeper/", b"deeper"),
        ("/.well-known/x.txt", b"known"),
    ],
)
def test_files(folder: Path, target: str, body: bytes) -> None:
    answer = Files(folder).answer(target)
    assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "index.html",
        "http://localhost/index.html",
        "//index.html",
        "/sub//deeper/",
        "/sub/",
        "/index.html/",
        "/nothing",
        "/./index.html",
        "/../outside/secret.txt",
        "/sub/../../outside/secret.txt",
        "/%2e%2e/outside/secret.txt",
        "/..%2foutside/secret.txt",
        "/..%5coutside%5csecret.txt",
        "/%2Fetc/passwd",
        "//etc/passwd",
        "/C:/Windows/win.ini",
        "/index.html%00.txt",
        "/%ff",
        "/.git/config",
        "/.env",
        "/sub/.hidden",
        "/" + "x" * 5000,
    ],
)
def test_what_is_not_there(folder: Path, target: str) -> None:
    answer = Files(folder).answer(target)
    assert (answer.status, answer.body) == (404, b"not found\n")


def test_directory_without_slash(folder: Path) -> None:
    answer = Files(folder).answer("/sub/deeper?x")
    assert (answer.status, answer.location) == (308, "deeper/")


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_links(folder: Path) -> None:
    """Those that lead out lead nowhere."""
    (folder / "inside").symlink_to("index.html")
    (folder / "file").symlink_to("../outside/secret.txt")
    (folder / "directory").symlink_to("../outside")
    (folder / "absolute").symlink_to(folder.parent / "outside" / "secret.txt")
    (folder / "round").symlink_to("round")
    (folder / "sub" / "index.html").symlink_to("../../outside/secret.txt")
    files = Files(folder)
    assert files.answer("/inside").body == b"index"
    for target in ("/file", "/directory/secret.txt", "/directory/", "/absolute", "/round", "/sub/"):
        assert files.answer(target).status == 404, target


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_root_that_is_a_link(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert Files(link).answer("/").body == b"index"


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
def test_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert Files(folder).answer("/pipe").status == 404


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "index.html").chmod(0)
    assert Files(folder).answer("/index.html").status == 404


def test_large_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "MAX_FILE", 4)
    assert Files(folder).answer("/index.html").status == 413


def test_no_directory(folder: Path) -> None:
    with pytest.raises(NotADirectoryError):
        Files(folder / "index.html")
    with pytest.raises(FileNotFoundError):
        Files(folder / "nothing")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.JS", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.wasm", "application/wasm"),
        ("a.png", "image/png"),
        ("a.svg", "image/svg+xml"),
        ("a.tar.gz", "application/octet-stream"),
        ("a.unknown", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_types(name: str, expected: str) -> None:
    assert content_type(name) == expected
