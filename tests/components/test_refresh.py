"""The refresh's embeddings step: carried over from the release that serves, where its files are still there."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from kfp import dsl

from components.generate_embeddings import generate_embeddings
from components.push_embeddings import push_embeddings
from limaml.manifest import Manifest, read_manifest
from limaml.online.embeddings import generate_embeddings as generate
from limaml.online.release import publish
from limaml.workspace import Workspace
from tests.limaml.online.chain import with_embeddings
from tests.limaml.online.conftest import Files
from tests.limaml.online.test_delta import FIRST, Days

NEXT = FIRST + timedelta(days=1)


@pytest.fixture
def days(tmp_path: Path) -> Days:
    """Everything up to the first day's release."""
    days = Days.make(tmp_path, {})
    place = Workspace(str(tmp_path / "w"), days.application.name)
    uri = place.embeddings("m1", FIRST)
    generate(days.model, days.tasks(FIRST), uri, days.application, FIRST)
    decision = Files(tmp_path, days.application).decision(uri)
    publish(uri, place.store_url(days.application), days.application, decision)
    return days


def refreshed(days: Days, refresh: str = "delta") -> tuple[Manifest, dict[str, float]]:
    folder = days.root / "outputs"
    folder.mkdir()
    outputs = {"manifest": dsl.Artifact(name="manifest", uri=str(folder / "manifest"))}
    metrics = dsl.Metrics(name="metrics", uri=str(folder / "metrics"))
    application = with_embeddings(days.application, refresh=refresh)
    uri = generate_embeddings.python_func(
        application.model_dump_json(), str(days.root / "w"), str(NEXT), days.tasks(NEXT), metrics=metrics, **outputs
    )
    return read_manifest(uri), metrics.metadata


def test_only_what_changed_is_computed(days: Days) -> None:
    manifest, figures = refreshed(days)
    first = read_manifest(Workspace(str(days.root / "w"), "small").embeddings("m1", FIRST))
    assert manifest.details["previous_digest"] == first.digest
    assert 0 < manifest.details["changed"] < manifest.counts["tasks"]
    assert figures["changed"] == manifest.details["changed"]


def test_the_published_delta_says_what_was_verified(days: Days) -> None:
    refreshed(days)
    place = Workspace(str(days.root / "w"), "small")
    folder = days.root / "published"
    folder.mkdir()
    metrics = dsl.Metrics(name="metrics", uri=str(folder / "metrics"))
    artifact = dsl.Artifact(name="manifest", uri=str(folder / "manifest"))
    summary = dsl.Markdown(name="summary", uri=str(folder / "summary"))
    name = push_embeddings.python_func(
        days.application.model_dump_json(),
        str(days.root / "w"),
        str(NEXT),
        place.embeddings("m1", NEXT),
        artifact,
        metrics,
        summary,
    )
    made = read_manifest(place.embeddings("m1", NEXT))
    assert name.startswith("r2-")
    assert artifact.metadata["release"] == name
    text = Path(summary.path).read_text()
    assert text.startswith(f"# Release {name}\n")
    assert f"| tasks served | {made.counts['tasks']:,} |" in text
    assert metrics.metadata["verified.records"] == made.details["changed"] + made.details["removed"]
    assert metrics.metadata["verified.tasks"] == made.counts["tasks"]
    assert metrics.metadata["verified.canary_tasks"] > 0
    assert metrics.metadata["verified.canary_mismatches"] == 0


def test_everything_is_computed_where_asked_for(days: Days) -> None:
    manifest, _ = refreshed(days, "full")
    assert manifest.details["changed"] == manifest.counts["tasks"]


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "of another release"])
def test_everything_is_computed_where_the_releases_files_are_not_there(days: Days, gone: bool) -> None:
    place = Workspace(str(days.root / "w"), "small").embeddings("m1", FIRST)
    shutil.rmtree(place.removeprefix("file://"))
    if not gone:
        other = with_embeddings(days.application, pooling="max")
        generate(days.model, days.tasks(FIRST), place, other, FIRST)
    manifest, _ = refreshed(days)
    assert manifest.details["changed"] == manifest.counts["tasks"]
