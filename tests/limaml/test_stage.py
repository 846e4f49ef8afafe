from pathlib import Path

import pytest

from limaml import storage
from limaml.config import Application, parse_application
from limaml.manifest import FileEntry, Manifest, read_manifest, verify_files
from limaml.stage import Parts, Stage, entries
from tests.conftest import SMALL


class Build:
    """A stage's body that counts its runs."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.runs = 0

    def __call__(self, directory: Path) -> Manifest:
        self.runs += 1
        (directory / "shard=000.txt").write_text("rows")
        (directory / ".half").write_text("")
        return self.stage.manifest(entries(directory, {"shard=000.txt": 4}), {"rows": 4}, {"n": 1})


def make(output: Path | str, application: Application, **changes: object) -> tuple[Stage, Build]:
    settings = {"kind": "task_set", "sections": ("grouping",), "inputs": {"validated": "d1"}} | changes
    stage = Stage(output=str(output), application=application, **settings)  # type: ignore[arg-type]
    return stage, Build(stage)


@pytest.fixture(params=["file", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/out" if request.param == "file" else request.getfixturevalue("s3") + "/out"


def test_a_finished_stage_is_not_run_again(output: str, application: Application) -> None:
    stage, build = make(output, application)
    first = stage.run(build)
    second = stage.run(build)
    assert build.runs == 1
    assert second.digest == first.digest
    assert [(entry.path, entry.rows) for entry in first.files] == [("shard=000.txt", 4)]


@pytest.mark.parametrize(
    "change",
    [{"inputs": {"validated": "d2"}}, {"version": 2}, {"kind": "other"}, {"sections": ("grouping", "task")}],
)
def test_whatever_it_is_made_from_makes_it_run_again(
    tmp_path: Path, application: Application, change: dict[str, object]
) -> None:
    stage, build = make(tmp_path / "out", application)
    stage.run(build)
    other, again = make(tmp_path / "out", application, **change)
    other.run(again)
    assert again.runs == 1


def test_only_the_sections_it_reads_count(tmp_path: Path, application: Application) -> None:
    stage, build = make(tmp_path / "out", application)
    stage.run(build)
    unrelated = parse_application(SMALL | {"gate": {"minimum_rows": 5}}, "tests")
    stage, build = make(tmp_path / "out", unrelated)
    stage.run(build)
    assert build.runs == 0
    related = parse_application(SMALL | {"grouping": {"shards": 3}}, "tests")
    stage, build = make(tmp_path / "out", related)
    stage.run(build)
    assert build.runs == 1


def test_a_failed_stage_leaves_no_manifest(tmp_path: Path, application: Application) -> None:
    stage, _ = make(tmp_path / "out", application)

    def fail(directory: Path) -> Manifest:
        (directory / "half.txt").write_text("")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        stage.run(fail)
    assert not storage.exists(stage.output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_output_is_built_again(output: str, application: Application, damage: str) -> None:
    """An IntegrityError tells people to run the stage again; that must then help."""
    stage, build = make(output, application)
    stage.run(build)
    shard = storage.join(stage.output, "shard=000.txt")
    if damage == "missing":
        storage.delete(shard)
    else:
        storage.write_bytes(shard, b"RoWs")
    stage.run(build)
    assert build.runs == 2
    assert storage.read_bytes(shard) == b"rows"


def test_a_resumable_stage_keeps_finished_files(tmp_path: Path, application: Application) -> None:
    stage, build = make(tmp_path / "out", application)

    def killed(directory: Path) -> Manifest:
        (directory / "shard=007.txt").write_text("done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.run(killed, resumable=True)
    seen: list[str] = []

    def resume(directory: Path) -> Manifest:
        seen.extend(path.name for path in directory.iterdir())
        return build(directory)

    stage.run(resume, resumable=True)
    assert seen == ["shard=007.txt"]


def test_files_that_others_wrote_are_assembled_once(output: str, application: Application) -> None:
    stage, _ = make(output, application)
    seen = []

    def build(parts: Parts) -> Manifest:
        seen.append(parts.uri)
        entries = []
        for name in ("shard=000.txt", "kind/shard=000.txt"):
            parts.sources[name] = storage.join(parts.uri, f"{len(entries)}.txt")
            storage.write_bytes(parts.sources[name], name.encode())
            size, digest = len(name), storage.sha256(parts.sources[name])
            entries.append(FileEntry(path=name, rows=1, bytes=size, sha256=digest))
        return stage.manifest(entries, {"rows": 2})

    storage.write_bytes(f"{output}/old.txt", b"of an earlier run")
    first = stage.assemble(build)
    assert stage.assemble(build).digest == first.digest
    assert len(seen) == 1
    assert not storage.exists(seen[0])
    assert read_manifest(output) == first
    verify_files(output, first)
    assert sorted(info.base_name for info in storage.list_files(output)) == ["manifest.json", *["shard=000.txt"] * 2]
