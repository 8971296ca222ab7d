"""What inflates by the C functions of zlib and zlib-ng, beside the standard library's objects."""

import ctypes
import gc
import random
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from wsproto_fast import _inflater, backends

from .deflate_helpers import BACKENDS

NAMES = [name for name in ("zlib", "zlib-ng") if name in BACKENDS]


def new(name, bits=12, window=b""):
    inflater = backends.get_backend(name).new_decompressor(bits, window)
    if type(inflater) is not _inflater.Inflater:
        pytest.skip(f"the functions of {name} aren't to be found on this platform")
    return inflater


def texts(seed, count):
    generator = random.Random(seed)
    words = [generator.randbytes(generator.randrange(1, 20)) for _ in range(50)]
    for _ in range(count):
        size = generator.choice([1, 10, 100, 1000, 16384, 16896, 16897, 70000])
        parts = []
        while sum(map(len, parts)) < size:
            parts += generator.choices([*words, generator.randbytes(3)], k=50)
        yield b"".join(parts)[:size]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("level", [0, 1, 6])
def test_streams_of_messages(name, bits, level):
    inflater = new(name, bits)
    compressor = zlib.compressobj(level, wbits=-bits)
    for number, text in enumerate(texts(f"{bits} {level}", 40)):
        data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
        cut = random.Random(number).randrange(len(data) + 1)
        assert inflater.decompress(data[:cut]) + inflater.decompress(data[cut:]) == text
        assert not inflater.eof


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 1000, 16895, 16896, 16897, 33792, 100_000, 3_000_000])
def test_results_of_any_size_up_to_a_limit(name, size):
    text = random.Random(size).randbytes(size // 2) + (size - size // 2) * b"x"
    compressor = zlib.compressobj(wbits=-12)
    data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    for limit in {1, size // 2 or 1, size - 1 or 1, size, size + 1, 10 * size}:
        assert new(name).decompress(data, limit) == text[:limit]
    assert new(name).decompress(data) == text


@pytest.mark.parametrize("name", NAMES)
def test_no_more_memory_than_the_limit_asks_for(name):
    compressor = zlib.compressobj(wbits=-15)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64)) + compressor.flush()
    result = new(name, 15).decompress(bomb, 100_000)
    assert sys.getsizeof(result) < 100_100


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [0, 1, 2, 5])
def test_end_of_a_stream(name, cut):
    compressor = zlib.compressobj(wbits=-12)
    data = compressor.compress(b"text") + compressor.flush() + b"rest!"[:cut]
    inflater = new(name)
    assert inflater.decompress(data) == b"text"
    assert inflater.eof
    assert inflater.unused_data == b"rest!"[:cut]
    assert inflater.decompress(b"more") == b""


@pytest.mark.parametrize("name", NAMES)
def test_invalid_data(name):
    with pytest.raises(backends.get_backend(name).errors, match="Error -3 while decompressing"):
        new(name).decompress(b"\x07")


@pytest.mark.parametrize("name", NAMES)
def test_what_it_may_refer_to(name):
    text = random.Random(0).randbytes(1000)
    compressor = zlib.compressobj(wbits=-12, zdict=text)
    data = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert new(name, 12, text).decompress(data) == text
    with pytest.raises(backends.get_backend(name).errors, match="too far back"):
        new(name, 12).decompress(data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [8, 16])
def test_windows_that_there_are_not(name, bits):
    with pytest.raises(ValueError, match="window_bits must be between 9 and 15"):
        new(name, bits)


@pytest.mark.parametrize("path", [None, "/nowhere", _inflater.__file__])
def test_library_without_the_functions(path):
    with pytest.raises(LookupError, match="no functions to inflate with"):
        _inflater.Library(path, True, ValueError)


def test_objects_of_the_module_serve_where_there_are_no_functions(monkeypatch):
    def missing(*_):
        raise LookupError

    monkeypatch.setattr(_inflater, "Library", missing)
    backend = backends._zlib_like("zlib", zlib, {})
    assert type(backend.new_decompressor(12, b"")) is type(zlib.decompressobj())


@pytest.mark.skipif(sys.platform == "win32", reason="no functions are found on Windows")
def test_library_in_a_directory_whose_name_is_no_text(tmp_path):
    # os.fsdecode() of a name that isn't UTF-8.
    path = str(tmp_path / "\udcff" / "zlib.so")
    with pytest.raises(LookupError, match="no functions to inflate with"):
        _inflater.Library(path, False, zlib.error)


PART_OF_ZLIB = """
int inflateInit2_(void *stream, int window_bits, const char *version, int size) { return 0; }
int inflate(void *stream, int flush) { return %s; }
int inflateEnd(void *stream) { return 0; }
"""
THE_REST = """
int inflateSetDictionary(void *stream, const unsigned char *data, unsigned size) { return 0; }
int inflateGetDictionary(void *stream, unsigned char *data, unsigned *size) { return 0; }
"""


@pytest.fixture
def library(tmp_path):
    """Compile a library that is loaded; return its path."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform == "win32":
        pytest.skip("no compiler for libraries is there")

    def build(name, source, *options):
        path = tmp_path / name
        (tmp_path / "source.c").write_text(source)
        command = [compiler, "-shared", "-fPIC", "-o", path, tmp_path / "source.c", *options]
        subprocess.run(command, check=True, timeout=60)
        ctypes.CDLL(str(path))
        return str(path)

    return build


@pytest.mark.parametrize("result", [0, 1, -2])
def test_functions_of_the_same_names_that_do_something_else(library, result):
    path = library("other.so", PART_OF_ZLIB % result + THE_REST)
    with pytest.raises(LookupError, match="no functions to inflate with"):
        _inflater.Library(path, False, zlib.error)


def test_functions_of_several_libraries_are_not_mixed(library):
    # As a program has them that exports some functions of a zlib of its own.
    rest = library("rest.so", THE_REST)
    path = library("part.so", PART_OF_ZLIB % 0, "-Wl,--no-as-needed", rest)
    with pytest.raises(LookupError, match="no functions to inflate with"):
        _inflater.Library(path, False, zlib.error)


def test_functions_that_seem_to_be_in_a_program(library):
    """As on s390x, where those that a program calls are found in it, and lead to the library."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    paths = [line.split()[-1] for line in lines if "/libz.so" in line]
    if not paths:
        pytest.skip("zlib isn't a library of its own here")
    path = library("part.so", PART_OF_ZLIB % 0, "-Wl,--no-as-needed", paths[0])
    inflater = _inflater.Library(path, False, zlib.error).new(12)
    compressor = zlib.compressobj(wbits=-12)
    assert inflater.decompress(compressor.compress(b"text") + compressor.flush()) == b"text"


@pytest.mark.parametrize("name", NAMES)
def test_negative_limit(name):
    with pytest.raises(ValueError, match="limit must be 0 or more; got -5"):
        new(name).decompress(b"\x00", -5)


def test_stream_of_no_library():
    with pytest.raises(RuntimeError, match="makes streams"):
        _inflater.Inflater().decompress(b"\x00")


@pytest.mark.parametrize("name", NAMES)
def test_two_threads_that_inflate_one_stream(name):
    inflater = new(name, 15)
    data = zlib.compress(bytes(1 << 24), 1, wbits=-15)[:-20]
    results = []

    def inflate():
        try:
            results.append(len(inflater.decompress(data)))
        except (RuntimeError, zlib.error, *backends.get_backend(name).errors) as exc:
            results.append(exc)

    threads = [threading.Thread(target=inflate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # At least the first one did, and nobody wrote where another one did.
    assert any(type(result) is int for result in results)
    assert len(results) == 4


@pytest.mark.parametrize("name", NAMES)
def test_collector_of_garbage(name):
    """It can't take the library away from a stream before the stream ends."""
    stream = new(name)
    assert not gc.is_tracked(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
