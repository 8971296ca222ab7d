"""Settings shared by all tests."""

import os
import signal
from collections import Counter

import pytest
from hypothesis import settings

# Machines differ in speed: no deadline per example. CI runs the same examples every time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("emulated", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Programs that tests run, and end by SIGINT, inherit that it is ignored, as it is in the background
# of a shell script.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Files that take longest, the longest first; most of it is waiting. Processes of pytest-xdist,
# each of which runs whole files, begin with them: what begins last runs alone in the end.
LONG_FILES = (
    "tests/wsapi/topics/redis_bus/test_redis_harm.py",
    "tests/wsapi/topics/redis_bus/test_redis_transports.py",
    "tests/benchmarks/test_topics.py",
    "tests/wsapi/test_sync_freed.py",
    "tests/benchmarks/test_instructions.py",
    "tests/topics_torture/test_torture.py",
    "tests/faults/test_matrix.py",
    "tests/wsapi/topics/test_topics_examples.py",
    "tests/benchmarks/test_compare.py",
    "tests/wsapi/topics/test_nats_connection.py",
    "tests/wsapi/topics/test_nats.py",
    "tests/wsapi/cli/test_check.py",
    "tests/wsapi/conformance/test_gone_peers.py",
    "tests/docs/test_site.py",
    "tests/cimport/test_cimport.py",
    "tests/faults/test_soak.py",
    "tests/frameworks/test_frameworks.py",
    "tests/wsapi/test_asyncio_memory.py",
    "tests/benchmarks/test_crowd.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Have pytest-xdist keep the order of files; its own begins with those that have most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the processes of pytest-xdist begin with what takes longest."""
    if hasattr(config, "workerinput"):
        items[:] = longest_first(items)


def longest_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return tests by their files: those of ``LONG_FILES``, then those with most tests.

    Args:
        items: The tests; within a file their order stays.
    """
    files = [item.nodeid.split("::", 1)[0] for item in items]
    sizes = Counter(files)
    places = {name: place for place, name in enumerate(LONG_FILES)}
    keys = [(places.get(name, len(places)), -sizes[name], name) for name in files]
    order = sorted(range(len(items)), key=lambda index: keys[index])
    return [items[index] for index in order]
