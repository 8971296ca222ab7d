"""The names of ``wsapi.topics``."""

import pytest

from wsapi import topics


def test_names() -> None:
    for name in topics.__all__:
        assert getattr(topics, name) is not None
        assert name in dir(topics)
    assert topics.Topics.__doc__


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match=r"module 'wsapi.topics' has no attribute 'Bux'"):
        topics.Bux  # type: ignore[attr-defined] # noqa: B018
