"""Play an A/B test out: simulated requests, split by the sticky hash, answered by the two real scorers.

Outcomes and visits come from the world's truth, with luck that no policy changes: two arms that choose alike see alike.
One release serves the whole test: no refresh runs in between, so embeddings grow stale as tastes drift on.
"""

import logging
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from limaml import storage
from limaml.config import Application
from limaml.console import progress
from limaml.data.layout import SIGNUPS, VISITS, day_folder, day_of
from limaml.data.simulated_log import IMPRESSION_ID
from limaml.data.world import Played, World, pick_highest
from limaml.errors import ConfigError
from limaml.experiment.assignment import CONTROL, TREATMENT, in_treatment, takes_part
from limaml.experiment.exposures import (
    COHORT,
    EMBEDDING_AGE,
    EXPERIMENT,
    GENERATION,
    ITEM,
    POSITION,
    REASON,
    REQUEST,
    SCORE,
    VARIANT,
    exposure_schema,
)
from limaml.manifest import Manifest
from limaml.schema import EVENT_TIME, LABEL, MEMBER, MODEL_VERSION
from limaml.stage import Stage, entries
from limaml.windows import Window, day_start

log = logging.getLogger(__name__)

EXPOSURES = "exposures"


class Answers(Protocol):
    """What a scorer says of R candidates: [R] probabilities, reasons and ages, and who answered."""

    @property
    def probability(self) -> npt.NDArray[np.float32]: ...
    @property
    def reason(self) -> npt.NDArray[np.str_]: ...
    @property
    def age_seconds(self) -> npt.NDArray[np.float64]: ...
    @property
    def model_version(self) -> str: ...
    @property
    def generation(self) -> str: ...


class Scorer(Protocol):
    """Anything that scores a table of candidates."""

    def score_table(self, table: pa.Table, now: datetime | None = None) -> Answers: ...


def play(
    world: World,
    application: Application,
    scorers: Mapping[str, Scorer],
    output: str,
    window: Window,
    past: str,
    served: Mapping[str, Any],
) -> Manifest:
    """Play the days of a test and write its exposures, visits and sign-ups.

    Args:
        world: the simulated world, at the start of the window.
        application: its `experiment` section splits the members.
        scorers: what answers in the `control` and in the `treatment` arm.
        output: URI to write below: `exposures/date=D`, `visits/date=D` (earlier days included), `signups`.
        window: logical days of the test.
        past: URI of the data root that was simulated before it, whose visits decide the cohorts.
        served: what identifies the world and the scorers (manifest digests, versions), for the fingerprint.

    Raises:
        ConfigError: the world does not stand at the window's start.
    """
    if world.next_day != window.start:
        raise ConfigError(f"the simulated world stands at {world.next_day}, but the test starts on {window.start}")
    inputs = {"window": window.model_dump(mode="json"), "served": dict(served)}
    stage = Stage("experiment_log", output, application, ("experiment", "data"), inputs)

    def build(directory: Path) -> Manifest:
        earlier = _copy_visits(past, directory, before=window.start)
        counts = {"members": 0, "exposures": 0, "clicks": 0, "visits": 0}
        with progress() as bar:
            task = bar.add_task("play the A/B test", total=len(window.days), note="")
            for day in window.days:
                _play_day(world, application, scorers, directory, day, counts)
                bar.update(task, advance=1, note=f"{day} · {counts['exposures']:,} exposures")
        signups = world.signups(window.end)
        counts["members"] = signups.num_rows
        _write(directory / SIGNUPS / "part-000.parquet", [signups])
        return stage.manifest(entries(directory), counts, {"earlier_visit_files": earlier})

    return stage.run(build)


def _play_day(
    world: World,
    application: Application,
    scorers: Mapping[str, Scorer],
    directory: Path,
    day: date,
    counts: dict[str, int],
) -> None:
    policy = _SplitPolicy(world, application, scorers, day_start(day, application.windows.utc_offset_hours))
    exposures, visits = [], []
    for played in world.day(day, policy):
        exposures.append(policy.exposures(played))
        visits.append(played.visits)
        counts["exposures"] += exposures[-1].num_rows
        counts["clicks"] += int(exposures[-1][LABEL].to_numpy().sum())
        counts["visits"] += played.visits.num_rows
    _write(directory / EXPOSURES / day_folder(day) / "part-000.parquet", exposures)
    _write(directory / VISITS / day_folder(day) / "part-000.parquet", visits)


class _SplitPolicy:
    """Sends every request to its member's arm and remembers how each answer came about."""

    def __init__(self, world: World, application: Application, scorers: Mapping[str, Scorer], now: datetime) -> None:
        self.format, self.experiment, self.scorers, self.now = world.format, application.experiment, scorers, now
        self._chosen: pa.Table | None = None

    def __call__(self, candidates: pa.Table) -> npt.NDArray[np.integer]:
        rows, members = candidates.num_rows, candidates[self.format.member_id].to_numpy()
        inside, treated = takes_part(members, self.experiment), in_treatment(members, self.experiment)
        answers_treatment = np.where(inside, treated, self.experiment.otherwise == self.experiment.treatment)
        columns: dict[str, npt.NDArray] = {
            SCORE: np.zeros(rows, np.float32),
            REASON: np.full(rows, "", dtype=object),
            EMBEDDING_AGE: np.full(rows, np.nan),
            MODEL_VERSION: np.full(rows, "", dtype=object),
            GENERATION: np.full(rows, "", dtype=object),
        }
        for arm, mask in ((CONTROL, ~answers_treatment), (TREATMENT, answers_treatment)):
            index = np.flatnonzero(mask)
            if len(index) == 0:
                continue
            answers = self.scorers[arm].score_table(candidates.take(index), now=self.now)
            columns[SCORE][index] = answers.probability
            columns[REASON][index] = answers.reason
            columns[EMBEDDING_AGE][index] = answers.age_seconds
            columns[MODEL_VERSION][index] = answers.model_version
            columns[GENERATION][index] = answers.generation
        chosen = pick_highest(candidates, columns[SCORE])
        self._chosen = pa.table(
            {
                REQUEST: candidates[REQUEST].take(chosen),
                EXPERIMENT: pa.repeat(self.experiment.name, len(chosen)),
                POSITION: pa.repeat(pa.scalar(1, pa.int32()), len(chosen)),
                COHORT: pa.nulls(len(chosen), pa.string()),
                VARIANT: np.where(inside, np.where(treated, TREATMENT, CONTROL), "")[chosen].tolist(),
                **{name: pa.array(values[chosen], from_pandas=True) for name, values in columns.items()},
            }
        )
        return chosen

    def exposures(self, played: Played) -> pa.Table:
        """The exposure log of the chunk this policy chose for last: requests of members who are in the test."""
        assert self._chosen is not None, "the world asks before it plays"
        shown = played.interactions
        by_request = shown.sort_by(IMPRESSION_ID)
        chosen = self._chosen.sort_by(REQUEST)
        assert by_request[IMPRESSION_ID].equals(chosen[REQUEST]), "every request has one outcome"
        chosen = (
            chosen.append_column(MEMBER, by_request[self.format.member_id])
            .append_column(ITEM, by_request[self.format.item_id])
            .append_column(EVENT_TIME, by_request[EVENT_TIME])
            .append_column(LABEL, by_request[LABEL])
        )
        chosen = chosen.filter(pc.field(VARIANT) != "")
        schema = exposure_schema(chosen[ITEM].type)
        return chosen.select(schema.names).cast(schema).sort_by([(EVENT_TIME, "ascending"), (REQUEST, "ascending")])


def _copy_visits(past: str, directory: Path, before: date) -> int:
    """Bring the visits before the test along, so that the test's folder explains its cohorts by itself."""
    files = 0
    uri = storage.join(past, VISITS)
    fs, base = storage.filesystem(uri)
    for info in storage.list_files(uri, ".parquet"):
        relative = info.path.removeprefix(base).lstrip("/")
        day = day_of(info.path)
        if day is not None and day < before:
            target = directory / VISITS / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with fs.open_input_stream(info.path) as stream:
                target.write_bytes(stream.read())
            files += 1
    return files


def _write(path: Path, tables: list[pa.Table]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables), path, compression="zstd")
