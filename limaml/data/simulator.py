"""Write a simulated world's logs as a data root: interactions, visits, sign-ups, and the truth beside them.

`world/state.safetensors` is where the world stood after the last day, so that `resume_world` can play on (an A/B test
on the days that follow) without playing the past again.
"""

from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from limaml import storage
from limaml.config import Application
from limaml.console import progress
from limaml.data.layout import INTERACTIONS, SIGNUPS, TRUTH, VISITS, part_path, refuse_foreign
from limaml.data.world import Played, SimulationSpec, World
from limaml.errors import DataError
from limaml.manifest import Manifest, read_manifest, verify_files
from limaml.schema import LABEL, TRUE_PROBABILITY
from limaml.stage import Stage, entries

KIND = "simulation"
_STATE = "world/state.safetensors"
_BINS = 8192


def simulate(output: str, application: Application, spec: SimulationSpec | None = None) -> Manifest:
    """Play a world without a policy and write its logs; eight weeks of visits come before the first interaction.

    Counts: rows, positives, members (who signed up before the end), visits. Details: spec, kind, first and last day,
    label_rate, and best_auc, the AUC of the true probability over all rows (to 1/8192 of probability).

    Args:
        output: URI of the data root.
        application: decides the columns and the start of a logical day.
        spec: size and seed of the world.

    Raises:
        ConfigError: the application can't be simulated, or the output holds something else.
    """
    spec = spec or SimulationSpec()
    world = World(spec, application)
    refuse_foreign(output, KIND)
    stage = Stage(
        KIND,
        output,
        application,
        ("task", "data", "features"),
        {"spec": spec.model_dump(mode="json"), "utc_offset_hours": world.utc_offset_hours},
    )
    return stage.run(lambda directory: _write(directory, world, stage))


def resume_world(data: str, application: Application) -> World:
    """The world behind a simulated data root, about to play the day after its last.

    Raises:
        DataError: the data root was not simulated, or for an application that sees another kind of log.
        IntegrityError: its files changed since.
    """
    manifest = read_manifest(data, KIND)
    try:
        spec = SimulationSpec.model_validate(manifest.details["spec"])
    except (KeyError, ValidationError) as error:
        raise DataError(f"{data}: its manifest names no world this version can play; simulate it again") from error
    world = World(spec, application)
    if (world.format.kind, world.utc_offset_hours) != (manifest.details["kind"], manifest.details["utc_offset_hours"]):
        raise DataError(
            f"{data}: simulated {manifest.details['kind']} with days at UTC{manifest.details['utc_offset_hours']:+d}, "
            f"but {application.name} reads {world.format.kind} with days at UTC{world.utc_offset_hours:+d}"
        )
    state_only = manifest.model_copy(update={"files": [one for one in manifest.files if one.path == _STATE]})
    verify_files(storage.normalize(data), state_only)
    try:
        world.restore(load(storage.read_bytes(storage.join(data, _STATE))), spec.end)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{data}/{_STATE}: not the state of a world of {spec.members} members: {error}") from error
    return world


def _write(directory: Path, world: World, stage: Stage) -> Manifest:
    spec = world.spec
    rows: dict[str, int] = {}
    histogram = np.zeros((2, _BINS), np.int64)
    days = [world.first_day + timedelta(days=i) for i in range((spec.end - world.first_day).days)]
    with progress() as bar:
        task = bar.add_task(f"simulate {world.format.kind}", total=len(days), note="")
        for day in days:
            wanted = [VISITS] if day < spec.start else [INTERACTIONS, TRUTH, VISITS]
            paths = {name: part_path(directory, name, day) for name in wanted}
            for path, count in _write_day(world, paths, histogram).items():
                rows[str(path.relative_to(directory))] = count
            bar.update(task, advance=1, note=f"{day} · {histogram.sum():,} rows")
    signups = world.signups(spec.end)
    path = part_path(directory, SIGNUPS)
    pq.write_table(signups, path)
    rows[str(path.relative_to(directory))] = signups.num_rows
    (directory / _STATE).parent.mkdir()
    (directory / _STATE).write_bytes(save(world.state))
    counts = {
        "rows": int(histogram.sum()),
        "positives": int(histogram[1].sum()),
        "members": signups.num_rows,
        "visits": sum(count for name, count in rows.items() if name.startswith(f"{VISITS}/")),
    }
    details = {
        "spec": spec.model_dump(mode="json"),
        "kind": world.format.kind,
        "utc_offset_hours": world.utc_offset_hours,
        "start": spec.start.isoformat(),
        "end": spec.end.isoformat(),
        "label_rate": round(counts["positives"] / counts["rows"], 6) if counts["rows"] else None,
        "best_auc": _auc(histogram),
    }
    return stage.manifest(entries(directory, rows), counts, details)


def _write_day(world: World, paths: dict[str, Path], histogram: npt.NDArray[np.int64]) -> dict[Path, int]:
    """Play the world's next day into files, chunk by chunk; add to the [2, bins] histogram of truth by label."""
    counts = dict.fromkeys(paths.values(), 0)
    writers: dict[str, pq.ParquetWriter] = {}
    try:
        for played in world.day(world.next_day):
            for name, path in paths.items():
                table = _table(played, name)
                if name not in writers:
                    writers[name] = pq.ParquetWriter(path, table.schema)
                writers[name].write_table(table)
                counts[path] += table.num_rows
            label = played.interactions[LABEL].to_numpy().astype(np.int64)
            position = (played.truth[TRUE_PROBABILITY].to_numpy() * _BINS).astype(np.int64).clip(max=_BINS - 1)
            histogram += np.bincount(label * _BINS + position, minlength=2 * _BINS).reshape(2, _BINS)
    finally:
        for writer in writers.values():
            writer.close()
    return counts


def _table(played: Played, name: str) -> pa.Table:
    return {INTERACTIONS: played.interactions, TRUTH: played.truth, VISITS: played.visits}[name]


def _auc(histogram: npt.NDArray[np.int64]) -> float | None:
    """AUC from a [2, bins] histogram of a score by label, or None where one class is absent."""
    negative, positive = histogram.astype(np.float64)
    below = np.cumsum(negative) - negative
    pairs = negative.sum() * positive.sum()
    return round(float((positive * (below + negative / 2)).sum() / pairs), 6) if pairs else None
