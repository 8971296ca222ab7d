"""Targets, and the inputs that the repository keeps for them."""

from __future__ import annotations

import hashlib
import importlib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
MAX_SIZE = 80_000  # of a target's corpus


def target_names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("targets/*.py"))


def load_target(name: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.targets.{name}")


def corpus_path(name: str) -> Path:
    return HERE / "corpus" / f"{name}.zip"


def dictionary_path(name: str) -> Path:
    return HERE / "dictionaries" / f"{name}.dict"


def inputs(name: str) -> list[bytes]:
    """Return a target's corpus, and the seeds that it has itself."""
    found = list(getattr(load_target(name), "SEEDS", ()))
    path = corpus_path(name)
    if path.exists():
        with zipfile.ZipFile(path) as archive:
            found += [archive.read(entry) for entry in archive.namelist()]
    return found


def unpack(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs(name):
        (folder / digest(data)).write_bytes(data)


def pack(name: str, found: Iterable[bytes]) -> int:
    """Keep as many inputs as there is room for, small ones first; return how many."""
    kept = sorted(set(found), key=lambda data: (len(data), data))
    path = corpus_path(name)
    while True:
        write(path, kept)
        size = path.stat().st_size
        if size <= MAX_SIZE:
            return len(kept)
        del kept[len(kept) * MAX_SIZE // size :]


def pack_seeds(name: str, path: str) -> None:
    """Write all inputs that are known of a target to an archive, for OSS-Fuzz."""
    write(Path(path), inputs(name))


def write(path: Path, found: Iterable[bytes]) -> None:
    """Write an archive; the same inputs make the same file."""
    with zipfile.ZipFile(path, "w", compresslevel=9) as archive:
        for data in found:
            archive.writestr(zipfile.ZipInfo(digest(data)[:12]), data, zipfile.ZIP_DEFLATED)


def digest(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
