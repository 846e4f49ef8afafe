"""The Dockerfile as text: whom it runs as, that nothing in it floats, and that what it copies is there."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.conftest import IMAGES, ROOT
from tests.infra.dockerfiles import Stage, parse

ARGUMENTS, STAGES = parse(IMAGES / "Dockerfile")
BY_NAME = {stage.name: stage for stage in STAGES}
FINAL = ("gpu", "cpu")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
# What is not in the image: tests' and developers' tools, and Spark, whose executors have an image of their own.
LEFT_OUT = ("dev", "spark")


def locked(path: Path) -> dict[str, str]:
    """Package → version of a lock; every line pins."""
    pairs = [line.split("==") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(len(pair) == 2 and re.fullmatch(r"[0-9][0-9a-zA-Z.!+]*", pair[1]) for pair in pairs), path
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_processors_image_is_what_comes_without_a_target() -> None:
    assert STAGES[-1].name == "cpu"
    assert {stage.name for stage in STAGES} >= set(FINAL)


def test_both_images_are_set_up_alike_and_run_as_a_numbered_nobody() -> None:
    for word in ("ENV", "ARG", "LABEL", "USER", "WORKDIR", "CMD", "ENTRYPOINT"):
        assert BY_NAME["cpu"].all(word) == BY_NAME["gpu"].all(word), word
    (user,) = BY_NAME["cpu"].all("USER")
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", user)
    labels = BY_NAME["cpu"].all("LABEL")[0]
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert f"VERSION={PROJECT['version']}" in BY_NAME["cpu"].all("ARG")


def test_nothing_of_the_build_reaches_the_image() -> None:
    for name in FINAL:
        stage = BY_NAME[name]
        assert not [text for text in stage.all("ARG") if text.startswith(("PIP_", "CA_", "TORCH_"))]
        sources = [text.split()[1] for text in stage.all("COPY")]
        assert all(text.startswith("--from=") for text in stage.all("COPY"))
        assert set(sources) <= {"/opt/limaml", "/project", "/python/"}
        assert not [text for text in stage.all("RUN") if "pip" in text]


def test_no_secret_has_a_place_in_it() -> None:
    text = (IMAGES / "Dockerfile").read_text()
    assert not re.search(r"(?i)(password|passwd=|token|secret|api_?key|credential)", text)
    assert "://" in text
    assert not re.search(r"://[^/\s]*@", text), "a URL with a user"


def test_nothing_floats() -> None:
    for name in ("PYTHON_IMAGE", "CUDA_IMAGE"):
        assert re.search(r":[\w.-]*\d[\w.-]*$", ARGUMENTS[name]), "a tag that says a version"
    assert not [stage for stage in STAGES if "latest" in stage.base]
    commands = [text for stage in STAGES for text in stage.all("RUN")]
    installs = [part for text in commands for part in re.split(r"&&|;", text) if "pip install" in part]
    assert len(installs) == 5
    for install in installs:
        from_lock = "--requirement /build/requirements" in install or "grep '^" in install
        assert from_lock or install.split()[-1] == "/build", install
        # pip reads PIP_NO_COMPILE=1 as its opposite; what it compiles is checked against times, and compiled again.
        assert "--no-compile" in install, install
        assert "--no-deps" in install or install.count("--constraint") == 2, install
    assert not [text for text in commands if re.search(r"apt|curl|wget|git ", text)]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: everything is, except what it names."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    parents = [path, *map(str, PurePosixPath(path).parents)]
    return not any(PurePosixPath(parent).match(pattern) for parent in parents for pattern in allowed)


def copied(stage: Stage) -> list[str]:
    return [source for text in stage.all("COPY") if "--from" not in text for source in text.split()[:-1]]


def test_what_is_copied_is_there_and_sent() -> None:
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    sources = [source for stage in STAGES for source in copied(stage)]
    assert len(sources) > 5
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    packages = {pattern.removesuffix("*") for pattern in SETUPTOOLS["packages"]["find"]["include"]}
    assert packages <= set(sources), "a package of the project is not copied"


def test_the_images_locks_hold_the_versions_that_are_tested() -> None:
    common, gpu = locked(IMAGES / "requirements.lock"), locked(IMAGES / "requirements-gpu.lock")
    tested = locked(ROOT / "requirements.lock")
    assert {name: tested.get(name) for name in common} == common
    assert not set(common) & set(gpu)
    assert f"torch=={gpu['torch']}" in PROJECT["dependencies"]
    assert not {"pytest", "moto", "ruff", "pyspark", "hypothesis"} & set(common)


def test_make_locks_every_extra_of_the_image() -> None:
    (extras,) = re.findall(r"^IMAGE_EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(extras.split()) == set(PROJECT["optional-dependencies"]) - set(LEFT_OUT)


def test_the_images_lock_holds_all_that_the_project_needs() -> None:
    """pip installs it without resolving, so nothing else would notice a dependency that the lock lacks."""
    extras = [names for extra, names in PROJECT["optional-dependencies"].items() if extra not in LEFT_OUT]
    wanted = [Requirement(text) for names in (PROJECT["dependencies"], *extras) for text in names]
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            seen.add(key)
            for text in distribution(requirement.name).requires or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    wanted.append(needed)
    missing = {name for name, _ in seen} - set(locked(IMAGES / "requirements.lock")) - {"torch"}
    assert not missing, f"run `make lock`: {sorted(missing)}"


@pytest.mark.parametrize("name", FINAL)
def test_what_is_written_goes_to_tmp(name: str) -> None:
    settings = dict(pair.split("=", 1) for text in BY_NAME[name].all("ENV") for pair in text.split())
    assert settings["PYTHONDONTWRITEBYTECODE"] == "1"
    for variable in ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        assert settings[variable].split("/")[1] == "tmp", variable
    assert BY_NAME[name].all("WORKDIR") == ["/tmp"]
