"""Implementations of DEFLATE: which there are, and what they take."""

import importlib
import zlib
from types import ModuleType, SimpleNamespace

import pytest

from wsproto_fast import backends

PAYLOAD = b"a payload, a payload, and again a payload"


@pytest.mark.parametrize("name", [None, *backends.available_backends()])
def test_each_inflates_what_it_compresses(name: str | None) -> None:
    backend = backends.get_backend(name)
    assert backends.get_backend(backend.name) is backend
    compressor = backend.new_compressor(15, {})
    data = compressor.compress(PAYLOAD) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert zlib.decompressobj(-15).decompress(data) == PAYLOAD
    assert bytes(backend.new_decompressor(15, b"").decompress(data)) == PAYLOAD


def test_window_that_an_inflater_begins_with() -> None:
    compressor = zlib.compressobj(wbits=-15, zdict=PAYLOAD)
    data = compressor.compress(PAYLOAD) + compressor.flush(zlib.Z_SYNC_FLUSH)
    for name in backends.available_backends():
        decompressor = backends.get_backend(name).new_decompressor(15, PAYLOAD)
        assert bytes(decompressor.decompress(data)) == PAYLOAD, name


def test_unknown_backend() -> None:
    with pytest.raises(ValueError) as caught:
        backends.get_backend("paper")
    text = str(caught.value)
    assert text.startswith("unknown compression backend: 'paper'; there are native, zlib")


def test_setting_that_the_own_compressor_has_not() -> None:
    native = backends.get_backend("native")
    native.new_compressor(15, {"memLevel": 5})
    with pytest.raises(
        TypeError, match=r"'native' has no setting 'level'; give .* 'zlib', or none"
    ):
        native.new_compressor(15, {"level": 5, "memLevel": 5})


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = importlib.import_module

    def missing(name: str, package: str | None = None) -> ModuleType:
        if name.startswith(("isal", "zlib_ng")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert backends.available_backends() == ["native", "zlib"]
    monkeypatch.setattr(backends, "_loaded", {"zlib": backends.get_backend("zlib")})
    native = backends.get_backend("native")
    assert native.bulk is None
    assert native.errors == (zlib.error,)
    with pytest.raises(ImportError):
        backends.get_backend("isal")


def test_module_whose_library_cannot_be_used() -> None:
    """Its objects are used then."""
    module = SimpleNamespace(
        **{name: getattr(zlib, name) for name in ("compressobj", "decompressobj", "error")},
        __file__=__file__,
    )
    assert backends._library("zlib-ng", module) is None
    backend = backends._zlib_like("zlib-ng", module, {"level": 9})
    compressor = backend.new_compressor(15, {})
    data = compressor.compress(PAYLOAD) + compressor.flush(zlib.Z_SYNC_FLUSH)
    for window in (b"", PAYLOAD):
        decompressor = backend.new_decompressor(15, window)
        assert isinstance(decompressor, type(zlib.decompressobj()))
        assert decompressor.decompress(data) == PAYLOAD
