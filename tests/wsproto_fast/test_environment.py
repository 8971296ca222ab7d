"""The name that the engine has for programs, and the settings that follow it."""

import os
import subprocess
import sys

import pytest

from wsproto_fast import environment
from wsproto_fast.environment import getenv_float, getenv_int

ENGINE = "import wsproto_fast as e; from wsproto_fast import environment, http11; "
SHOW = (
    "print(http11.SERVER.split()[1].split('/')[0], http11.MAX_LINE_LENGTH, "
    "e.ServerProtocol().logger.name, e.Frame.MAX_LOG_SIZE, environment.package); "
)
# A request whose first line has 34 bytes; 400 if that is too long.
REQUEST = (
    "p = e.ServerProtocol(); p.receive_data(b'GET /' + 18 * b'a' + b' HTTP/1.1\\r\\n\\r\\n'); "
    "print(type(p.handshake_exc).__name__)"
)


def output(code: str, **variables: str) -> list[str]:
    names = ("WSPROTO_FAST_", "WEBSOCKETS_", "OWNER_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    command = [sys.executable, "-c", ENGINE + code]
    return subprocess.run(
        command, env={**inherited, **variables}, check=True, capture_output=True, text=True
    ).stdout.split()


def test_own_name() -> None:
    shown = output(SHOW, WSPROTO_FAST_MAX_LINE_LENGTH="50", OWNER_MAX_LOG_SIZE="9")
    assert shown == ["wsproto_fast", "50", "wsproto_fast.server", "75", "wsproto_fast"]


def test_name_of_a_package_on_top() -> None:
    variables = {"OWNER_MAX_LINE_LENGTH": "30", "WEBSOCKETS_MAX_LOG_SIZE": "9"}
    variables["WSPROTO_FAST_MAX_LOG_SIZE"] = "8"
    shown = output("environment.identify('owner'); " + SHOW + REQUEST, **variables)
    assert shown == ["owner", "30", "owner.server", "9", "owner", "RequestLineTooLong"]


def test_name_under_which_it_is_imported() -> None:
    shown = output(
        "environment.identify('owner', imported_as='other'); " + SHOW, OWNER_MAX_LINE_LENGTH="30"
    )
    assert shown == ["owner", "30", "other.server", "75", "other"]


def test_settings_are_read_again_only_for_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[str]()
    monkeypatch.setattr(environment, "name", "owner")
    monkeypatch.setattr(environment, "package", "owner")
    monkeypatch.setattr(environment, "_followers", [])
    environment.follow(lambda: read.append(environment.name))
    environment.identify("owner", imported_as="other")
    assert (read, environment.package) == (["owner"], "other")
    environment.identify("another")
    assert (read, environment.package) == (["owner", "another"], "another")


@pytest.mark.parametrize("value", ["abc", "-1", "1.5"])
@pytest.mark.parametrize("variable", ["WSAPI_MAX_LOG_SIZE", "WEBSOCKETS_MAX_LOG_SIZE"])
def test_text_that_is_no_integer(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsproto_fast.environment.name", "wsapi")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError) as raised:
        getenv_int("MAX_LOG_SIZE", 75)
    assert str(raised.value) == (
        f"{variable} in the environment must be an integer >= 0; got {value!r}"
    )


@pytest.mark.parametrize("value", ["abc", "-0.5", "nan", "inf"])
def test_text_that_is_no_number(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsproto_fast.environment.name", "wsapi")
    monkeypatch.setenv("WSAPI_BACKOFF_FACTOR", value)
    with pytest.raises(ValueError) as raised:
        getenv_float("BACKOFF_FACTOR", 1.618)
    assert str(raised.value) == (
        f"WSAPI_BACKOFF_FACTOR in the environment must be a number >= 0; got {value!r}"
    )


def test_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsproto_fast.environment.name", "wsapi")
    monkeypatch.setenv("WEBSOCKETS_MAX_FRAGMENTS", "5")
    monkeypatch.setenv("WSAPI_MAX_REDIRECTS", "1_0")
    monkeypatch.setenv("WSAPI_BACKOFF_FACTOR", "2.5")
    monkeypatch.setenv("WSAPI_MAX_LOG_SIZE", "")
    assert getenv_int("MAX_FRAGMENTS", 4096) == 5
    assert getenv_int("MAX_REDIRECTS", 3) == 10
    assert getenv_float("BACKOFF_FACTOR", 1.618) == 2.5
    assert getenv_int("MAX_LOG_SIZE", 75) == 75
    assert getenv_float("BACKOFF_MAX_DELAY", 90.0) == 90.0
