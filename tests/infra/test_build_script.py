"""`infra/images/build.py` on a machine with a mirror, authorities and wheels of its own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.conftest import IMAGES

KNOWN = "-----BEGIN CERTIFICATE-----\na25vd24=\n-----END CERTIFICATE-----"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nb3Vycw==\n-----END CERTIFICATE-----"


def printed(tmp_path: Path, configuration: str, *options: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """The command it would run, and its build arguments; a docker of ours shows the base's authorities alone."""
    (tmp_path / "pip.conf").write_text(configuration)
    (tmp_path / "docker").write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '{KNOWN}'\n")
    (tmp_path / "docker").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    kept = {name: value for name, value in kept.items() if not name.endswith("_CA_BUNDLE")}
    environment = kept | {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "HOME": str(tmp_path)} | variables
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    command = [sys.executable, str(IMAGES / "build.py"), "--print", *options]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    words = shlex.split(ended.stdout)
    target = words[words.index("--target") + 1]
    pairs = [words[place + 1] for place, word in enumerate(words) if word == "--build-arg"]
    return words, {"--target": target, **dict(pair.split("=", 1) for pair in pairs)}


def test_mirror_and_authorities_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "bundle.pem").write_text(f"{KNOWN}\n{CERTIFICATE}\n")
    configuration = (
        "[global]\nindex-url = https://mirror.example/simple\ntrusted-host = mirror.example\n"
        f"extra-index-url = file:///somewhere https://more.example/simple\ncert = {tmp_path}/bundle.pem\n"
    )
    words, arguments = printed(tmp_path, configuration, "--tag", "registry.example/limaml:1", "--pull")
    assert arguments["PIP_INDEX_URL"] == "https://mirror.example/simple"
    assert arguments["PIP_EXTRA_INDEX_URL"] == "https://more.example/simple", "a folder of this machine is not there"
    assert arguments["PIP_TRUSTED_HOST"] == "mirror.example"
    assert arguments["CA_CERTIFICATES"] == CERTIFICATE, "those that the base has stay out"
    assert " docker.io/library/python:3.11-slim-bookworm " in (tmp_path / "asked").read_text()
    assert arguments["--target"] == "cpu"
    assert words[:2] == ["docker", "build"]
    assert "--pull" in words


def test_authorities_are_those_that_the_base_in_use_lacks(tmp_path: Path) -> None:
    (tmp_path / "bundle.pem").write_text(f"{KNOWN}\n")
    base = ("--build-arg", "PYTHON_IMAGE=registry.example/python:3.11")
    _, arguments = printed(tmp_path, f"[global]\ncert = {tmp_path}/bundle.pem\n", *base)
    assert "CA_CERTIFICATES" not in arguments
    assert " registry.example/python:3.11 " in (tmp_path / "asked").read_text()


def test_variables_go_before_files(tmp_path: Path) -> None:
    (tmp_path / "bundle.pem").write_text(KNOWN)
    configuration = f"[global]\nindex-url = https://file.example/simple\ncert = {tmp_path}/bundle.pem\n"
    _, arguments = printed(tmp_path, configuration, PIP_INDEX_URL="https://variable.example/simple")
    assert arguments["PIP_INDEX_URL"] == "https://variable.example/simple"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_where_nothing_is_special_nothing_is_passed(tmp_path: Path, target: str) -> None:
    _, arguments = printed(tmp_path, "", "--target", target, PIP_CONFIG_FILE=os.devnull)
    assert set(arguments) - {"--target", "REVISION"} == ({"GPU"} if target == "gpu" else set())
    assert arguments["--target"] == target


def test_authorities_that_are_too_many_are_refused(tmp_path: Path) -> None:
    many = "\n".join(CERTIFICATE.replace("b3Vycw==", f"{number:060d}") for number in range(2000))
    (tmp_path / "bundle.pem").write_text(many)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        printed(tmp_path, f"[global]\ncert = {tmp_path}/bundle.pem\n")
    assert "too many for a build argument" in failed.value.stderr
