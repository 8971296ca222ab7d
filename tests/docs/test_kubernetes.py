"""docs/guides/kubernetes.md: objects that fit the schemas, numbers that fit each other."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import block, free_port, program
from tests.docs.deployment import MARKS, TIMEOUT, changed, get, running, talk
from wsapi.exceptions import ConnectionClosedError, InvalidStatus
from wsapi.sync.client import connect

PAGE = "guides/kubernetes.md"
pytestmark = MARKS
VERSIONS = ("1.30", "1.37")  # the first one with `sleep`, and the last one of the schemas


def objects() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML isn't installed")
    return {each["kind"]: each for each in yaml.safe_load_all(block(PAGE, "kubernetes.yaml"))}


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas(version: str) -> None:
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate isn't installed"
    )
    found = objects()
    assert set(found) == {"Deployment", "Service", "Ingress", "PodDisruptionBudget"}
    for each in found.values():
        kubernetes_validate.validate(each, version, strict=True)
    found["Deployment"]["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found["Deployment"], version, strict=True)


def test_names_fit() -> None:
    found = objects()
    template = found["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    [container] = template["spec"]["containers"]
    [port] = container["ports"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    service = found["Service"]
    assert service["spec"]["selector"] == labels
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert container["readinessProbe"]["httpGet"]["port"] == port["name"]
    [rule] = found["Ingress"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"]["name"] == service["spec"]["ports"][0]["name"]


def test_there_is_time_to_drain() -> None:
    spec = objects()["Deployment"]["spec"]["template"]["spec"]
    asleep = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    found = re.search(r"timeout=(\d+)", program("guides/nginx.md", "server.py"))
    assert found is not None
    assert spec["terminationGracePeriodSeconds"] > asleep + int(found[1]) + 1


def test_dockerfile(tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint isn't installed")
    path = tmp_path / "Dockerfile"
    path.write_text(block(PAGE, "Dockerfile"), encoding="utf-8")
    checked = subprocess.run(
        [hadolint, "--no-color", str(path)], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr


def test_entry_point(tmp_path: Path) -> None:
    """What the image runs does what the probes and the kubelet expect."""
    docker = block(PAGE, "Dockerfile")
    found = re.search(r'ENTRYPOINT \["/venv/bin/python", "/app/server.py", (.*)\]', docker)
    assert found is not None
    arguments = [word.strip(' "') for word in found[1].split(",")]
    assert arguments == ["--host", "0.0.0.0"]
    port = free_port()
    server = tmp_path / "server.py"
    text = changed(program("guides/nginx.md", "server.py"), {"spread=5": "spread=0.5"})
    server.write_text(text, encoding="utf-8")
    # All addresses of the machine aren't for a test.
    arguments = ["--host", "127.0.0.1", "--port", str(port)]
    with running([server, *arguments], tmp_path, port) as process:
        assert get(port, "/healthz") == (200, b"ready\n")
        headers = {"X-Forwarded-For": "192.0.2.1"}
        url = f"ws://127.0.0.1:{port}"
        assert talk(url, "hello", additional_headers=headers) == ["192.0.2.1: hello"]
        with connect(url, proxy=None) as connection:
            process.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosedError):
                connection.recv(TIMEOUT)
            assert connection.close_code == 1012
        assert process.ends() == 0
        with pytest.raises((OSError, InvalidStatus)):
            connect(url, proxy=None)
