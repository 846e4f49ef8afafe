"""Build the image with what this machine's pip knows: its index, its authorities, its own wheel of torch.

    python3 infra/images/build.py [--target cpu|gpu] [--tag NAME] [--print] [docker's further options]

Where PyPI and PyTorch's index are reached without further ado this is `docker build --file infra/images/Dockerfile .`;
in a closed network, where `pip install` works, this works too. Standard library alone, so that any Python runs it.
"""

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?\n-----END CERTIFICATE-----", re.DOTALL)
# What pip reads, by the build argument that carries it.
OPTIONS = {"index-url": "PIP_INDEX_URL", "extra-index-url": "PIP_EXTRA_INDEX_URL", "trusted-host": "PIP_TRUSTED_HOST"}
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# One argument of a command is at most this long.
ARGUMENT_BYTES = 128 * 1024 - 64


def pip_settings() -> dict[str, str]:
    """pip's configuration by option, from its files and, before those, its variables."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        scope, _, option = name.rpartition(".")
        if scope == ":env:" or option not in settings:
            settings[option] = str(ast.literal_eval(value))
    return settings


def base_image(further: list[str]) -> str:
    """The image whose authorities the build has without being told."""
    given = [word.partition("=")[2] for word in further if word.startswith("PYTHON_IMAGE=")]
    default = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (HERE / "Dockerfile").read_text(), re.MULTILINE)
    assert default is not None
    return given[-1] if given else default[1]


def own_certificates(bundle: Path, base: str) -> str:
    """The certificates of a bundle that a base image lacks: those of this network."""
    command = ["docker", "run", "--rm", "--entrypoint", "cat", base, "/etc/ssl/certs/ca-certificates.crt"]
    known = set(CERTIFICATE.findall(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
    own = [found for found in CERTIFICATE.findall(bundle.read_text(errors="replace")) if found not in known]
    return "\n".join(own)


def torch_wheel(places: list[str]) -> Path | None:
    """A wheel of the locked torch in one of pip's local folders."""
    locked = re.search(r"^torch==(\S+)$", (HERE / "requirements-gpu.lock").read_text(), re.MULTILINE)
    assert locked is not None
    for place in places:
        folder = Path(urlparse(place).path)
        if urlparse(place).scheme in ("", "file") and folder.is_dir():
            found = sorted(folder.glob(f"torch-{locked[1]}+cpu-cp311-*.whl"))
            if found:
                return found[0]
    return None


def arguments(target: str, further: list[str]) -> dict[str, str]:
    """Build arguments for this machine; a wheel that only it has is copied into the context."""
    settings = pip_settings()
    found = {}
    for option, argument in OPTIONS.items():
        remote = [each for each in settings.get(option, "").split() if not each.startswith("file:")]
        if remote:
            found[argument] = " ".join(remote)
    bundle = settings.get("cert") or next(filter(None, map(os.environ.get, BUNDLES)), "")
    if bundle and (own := own_certificates(Path(bundle), base_image(further))):
        if len(own) > ARGUMENT_BYTES:
            raise SystemExit(f"{bundle}: {len(own):,} bytes of own certificates are too many for a build argument")
        found["CA_CERTIFICATES"] = own
    if target == "cpu" and (wheel := torch_wheel(settings.get("find-links", "").split())):
        if not (HERE / "wheels" / wheel.name).exists():
            shutil.copy(wheel, HERE / "wheels")
        found["TORCH_INDEX_URL"] = ""
    if target == "gpu":
        found["GPU"] = "1"  # what tells Docker's classic builder
    if revision := _git("rev-parse", "HEAD"):
        found["REVISION"] = revision + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    return found


def _git(*words: str) -> str:
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    """Build, or print the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--tag", default="limaml:dev")
    parser.add_argument("--print", action="store_true", help="show the command instead of running it")
    options, further = parser.parse_known_args()
    command = ["docker", "build", "--file", str(HERE / "Dockerfile"), "--target", options.target, "--tag", options.tag]
    for name, value in arguments(options.target, further).items():
        command += ["--build-arg", f"{name}={value}"]
    command += [*further, str(ROOT)]
    if options.print:
        sys.stdout.write(shlex.join(command) + "\n")
        return 0
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
