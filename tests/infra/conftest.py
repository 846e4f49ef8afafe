"""The image, as a cluster runs it: as nobody in particular, with a root it can't write to and no privileges."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "infra" / "images"
# What the `restricted` Pod Security Standard asks for, and a read-only root besides.
RESTRICTED = ("--read-only", "--tmpfs=/tmp", "--user=10001", "--cap-drop=ALL", "--security-opt=no-new-privileges")


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One docker command; when it is to be checked, what it wrote says why it failed."""
    ended = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert not check or ended.returncode == 0, f"docker {' '.join(words)[:300]}\n{ended.stdout}\n{ended.stderr}"
    return ended


def in_container(image: str, *command: str, options: tuple[str, ...] = (), check: bool = True):
    """A command in a fresh, restricted container."""
    return docker("run", "--rm", *RESTRICTED, *options, image, *command, check=check)


@pytest.fixture(scope="session")
def image() -> str:
    """The image of this working tree, or the one `LIMAML_TEST_IMAGE` names."""
    if named := os.environ.get("LIMAML_TEST_IMAGE"):
        return named
    tag = "limaml:test"
    built = subprocess.run([sys.executable, IMAGES / "build.py", "--tag", tag], capture_output=True, text=True)
    assert built.returncode == 0, f"{built.stdout[-3000:]}\n{built.stderr[-3000:]}"
    return tag
