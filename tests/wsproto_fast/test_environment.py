"""The name that the engine has for programs, and the settings that follow it."""

import os
import subprocess
import sys

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
