import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limaml import storage
from limaml.data.tasks import TaskSet
from limaml.errors import ConfigError, DataError, IntegrityError
from limaml.manifest import Manifest, verify_files
from limaml.online.release import publish
from limaml.windows import day_start
from monitoring import monitor as stage
from monitoring.monitor import EVIDENTLY, PAGE, RESULT, monitor
from tests.monitoring.conftest import AS_OF, Chain
from tests.monitoring.healthy import day


@pytest.fixture(autouse=True)
def without_evidently(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidently takes seconds to import and decides nothing; tests that look at its page say so by name."""
    if "evidently" not in request.node.name:
        monkeypatch.setattr(stage.drift, "write_evidently", lambda *_: None)


def look(chain: Chain, **changes: Any) -> Manifest:
    arguments = {
        "recent": chain.recent,
        "reference": chain.reference,
        "embeddings": chain.embeddings,
        "previous_embeddings": chain.previous,
        "model": chain.model,
        "store_url": chain.world.store_url,
        "output": str(chain.world.root / "monitoring"),
        "application": chain.world.application,
        "as_of": AS_OF,
    }
    return monitor(**(arguments | changes))


def alarm_names(manifest: Manifest) -> set[str]:
    return {alarm["name"] for alarm in manifest.details["alarms"]}


def test_a_healthy_day(chain: Chain) -> None:
    manifest = look(chain)
    details = manifest.details
    assert details["alarms"] == []
    assert details["healthy"] is True
    assert details["served"] | {"samples_p25": 0, "samples_p50": 0, "samples_p75": 0} == {
        "active_tasks": 800,
        "found_tasks": 800,
        "behind_ratio": 0.0,
        "samples_p25": 0,
        "samples_p50": 0,
        "samples_p75": 0,
    }
    assert details["canary"]["tasks"] == 800
    assert details["canary"]["mismatches"] == 0
    assert details["embeddings"]["against_previous"]["common_tasks"] == 700
    assert set(details["features"]) == {feature.name for feature in chain.world.application.features.all}
    names = [check["name"] for check in details["checks"]]
    assert len(names) == len(set(names)) == 20
    output = str(chain.world.root / "monitoring")
    verify_files(output, manifest)
    assert json.loads(storage.read_bytes(storage.join(output, RESULT))) == json.loads(json.dumps(details))
    html = storage.read_bytes(storage.join(output, PAGE)).decode()
    assert "healthy" in html
    assert "All 20 checks passed." in html


def test_a_rerun_is_the_same_and_a_later_clock_is_not(chain: Chain) -> None:
    first = look(chain)
    assert look(chain).created_at == first.created_at
    late = day_start(AS_OF, 0) + timedelta(hours=50)
    manifest = look(chain, now=late)
    assert alarm_names(manifest) == {"age_hours"}
    assert manifest.details["alarms"][0]["value"] == 50
    assert "start one by hand" in manifest.details["alarms"][0]["what_to_do"]
    with pytest.raises(ConfigError, match="time zone"):
        look(chain, now=late.replace(tzinfo=None))


def test_embeddings_under_the_wrong_keys_are_seen_by_the_canary(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no figure about distributions can see, on the first day without a day before."""
    from limaml.online.lmdb_store import LmdbReader

    right = LmdbReader.get

    def wrong(self: LmdbReader, task_ids: list[str]) -> Any:
        return right(self, [task_ids[0], *task_ids[:-1]] if len(task_ids) > 1 else task_ids)

    monkeypatch.setattr(LmdbReader, "get", wrong)
    # Scores may move too; what the embeddings themselves look like does not.
    assert (
        {"canary_mismatch_ratio"}
        <= alarm_names(look(chain, previous_embeddings=None))
        <= {
            "canary_mismatch_ratio",
            "prediction_psi",
        }
    )


def test_a_shifted_feature_is_named(chain: Chain) -> None:
    (batch,) = TaskSet.open(chain.recent).batches(10_000)
    batch.other_numeric[:, 0] += 1.5
    recent = chain.world.tasks("shifted", batch)
    embeddings = chain.world.embeddings(chain.model, recent, "of shifted")
    publish(embeddings, chain.world.store_url, chain.world.application)
    raised = alarm_names(look(chain, recent=recent, embeddings=embeddings))
    assert "feature_psi:item_x0" in raised
    assert raised <= {"feature_psi:item_x0", "prediction_psi", "embedding_shift", "embedding_coordinate_shift"}
    html = storage.read_bytes(storage.join(str(chain.world.root), "monitoring", PAGE)).decode()
    assert "PSI of item_x0" in html
    assert "what to do" in html


def test_a_stale_release_of_other_embeddings(chain: Chain) -> None:
    """Today's embeddings were made but never published."""
    new = chain.world.tasks("new", TaskSet.open(chain.recent).batches(10_000).__next__().take(np.arange(100, 800)))
    extra = chain.world.tasks("extra", day(5, 300, first=5000))
    embeddings = chain.world.embeddings(chain.model, new, "of new")
    assert alarm_names(look(chain, recent=new, embeddings=embeddings)) == {"embeddings_digest"}
    unknown = chain.world.embeddings(chain.model, extra, "of extra")
    raised = alarm_names(look(chain, recent=extra, embeddings=unknown))
    assert {"embeddings_digest", "coverage_ratio", "canary_mismatch_ratio"} <= raised


def test_a_day_that_is_past_is_looked_at_for_drift_alone(chain: Chain) -> None:
    """A backfill's: what serves is of a later day, and would only raise alarms about itself."""
    manifest = look(chain, as_of=AS_OF - timedelta(days=1))
    named = {check["name"] for check in manifest.details["checks"]}
    assert named.isdisjoint({"release", "embeddings_digest", "age_hours", "coverage_ratio", "canary_mismatch_ratio"})
    assert any(name.startswith("feature_psi:") for name in named)
    assert manifest.details["healthy"] is True
    html = (chain.world.root / "monitoring" / stage.PAGE).read_text()
    assert "A release of a later day serves" in html
    assert "find an embedding" not in html


def test_another_model_is_published(chain: Chain) -> None:
    other = chain.world.model(chain.reference, "m2", seed=1)
    embeddings = chain.world.embeddings(other, chain.recent, "of m2")
    chain.world.release(embeddings)
    raised = alarm_names(look(chain))
    assert {"model_version", "model_digest", "embeddings_digest", "canary_mismatch_ratio"} <= raised
    # After the change of the model, the day before has embeddings of other coordinates: they are not compared.
    manifest = look(chain, model=other, embeddings=embeddings)
    assert manifest.details["embeddings"]["against_previous"] is None
    assert alarm_names(manifest) == set()


def test_nothing_is_published(chain: Chain) -> None:
    manifest = look(chain, store_url=f"lmdb://{chain.world.root}/empty")
    assert alarm_names(manifest) == {"release"}
    assert manifest.details["served"]["found_tasks"] == 0


def test_what_does_not_belong_together_is_refused(chain: Chain) -> None:
    other = chain.world.model(chain.reference, "m2", seed=1)
    with pytest.raises(DataError, match="give the model that made them"):
        look(chain, model=other)
    with pytest.raises(DataError, match="not made from"):
        look(chain, recent=chain.reference)
    with pytest.raises(DataError, match="'embeddings' is needed"):
        look(chain, embeddings=chain.recent)
    assert not storage.exists(str(chain.world.root / "monitoring"))


def test_a_damaged_input_is_found(chain: Chain) -> None:
    shard = Path(chain.embeddings) / "shard=000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="shard=000"):
        look(chain)


def test_a_float16_store_and_one_of_float32_are_both_healthy(chain: Chain) -> None:
    application = chain.world.application
    wide = application.model_copy(update={"store": application.store.model_copy(update={"dtype": "float32"})})
    world = replace(chain.world, application=wide, root=chain.world.root / "wide")
    recent = chain.recent
    embeddings = world.embeddings(chain.model, recent)
    world.release(embeddings)
    manifest = look(chain, store_url=world.store_url, application=wide, embeddings=embeddings)
    assert manifest.details["release"]["dtype"] == "float32"
    assert manifest.details["canary"]["largest_error"] < 1e-5
    assert alarm_names(manifest) == set()
    assert 0 < look(chain).details["canary"]["largest_error"] < 1e-2


def test_evidentlys_page_and_the_command(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import typer

    from limaml.cli.common import run
    from monitoring import cli

    config = chain.world.root / "small.yaml"
    config.write_text(chain.world.application.model_dump_json())
    output = str(chain.world.root / "by command")
    app = typer.Typer()
    app.callback()(lambda: None)
    cli.register(app)
    arguments = {
        "--app": str(config),
        "--recent": chain.recent,
        "--reference": chain.reference,
        "--embeddings": chain.embeddings,
        "--previous": chain.previous,
        "--model": chain.model,
        "--store": chain.world.store_url,
        "--output": output,
        "--date": AS_OF.isoformat(),
    }
    argv = ["limaml", "monitor", *(word for pair in arguments.items() for word in pair), "--json"]
    monkeypatch.setattr("sys.argv", [*argv, "--at-date"])
    assert run(app) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["healthy"] is True
    assert result["page"].endswith(PAGE)
    assert storage.exists(storage.join(output, EVIDENTLY))
    monkeypatch.setattr("sys.argv", argv)
    assert run(app) == 0
    result = json.loads(capfd.readouterr().out)
    years = (datetime.now(UTC) - day_start(AS_OF, 0)).days
    assert [alarm["name"] for alarm in result["alarms"]] == ["age_hours"]
    assert result["alarms"][0]["value"] > years * 24 - 1
