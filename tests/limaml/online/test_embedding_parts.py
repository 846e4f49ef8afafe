"""Embeddings generated in parts against the same made at once: the same bytes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from limaml import storage
from limaml.errors import DataError, IntegrityError
from limaml.manifest import Manifest, read_manifest
from limaml.online.embedding_parts import divide, generate_part, join_parts
from limaml.online.embeddings import Plan, plan_embeddings
from tests.limaml.online.test_delta import ALSO, FIRST, Days

NEXT = FIRST + timedelta(days=1)
SHARDS = {"grouping": {"shards": 7, "buckets": 8}}


def plan_of(days: Days, name: str, previous: str = "") -> Plan:
    as_of = NEXT if previous else FIRST
    return plan_embeddings(
        days.model, days.tasks(as_of), str(days.root / name), days.application, as_of, previous, verify=False
    )


def in_parts(days: Days, name: str, parts: int, previous: str = "") -> Manifest:
    ranges = divide(plan_of(days, name, previous).task_set.uri, days.application.definition_names, parts)
    made = [generate_part(plan_of(days, name, previous), shards) for shards in reversed(ranges)]
    return join_parts(plan_of(days, name, previous), made)


@pytest.mark.parametrize("content", [{}, {"also": ALSO}], ids=["one", "several"])
@pytest.mark.parametrize("parts", [3, 100])
def test_parts_make_the_bytes_that_one_makes(tmp_path: Path, content: dict[str, Any], parts: int) -> None:
    days = Days.make(tmp_path, SHARDS | content)
    first = days.refresh("whole", FIRST)
    for name, previous in (("a", ""), ("b", first)):
        whole = read_manifest(first if not previous else days.refresh("whole", NEXT, previous))
        joined = in_parts(days, name, parts, previous)
        assert joined.files == whole.files
        assert joined.details == whole.details
        assert joined.digest == whole.digest
        assert joined.fingerprint == whole.fingerprint
        assert not list(tmp_path.glob(".*"))
        assert in_parts(days, name, 2, previous) == joined, "a finished output stays"


def test_shards_are_divided_evenly_in_their_order(tmp_path: Path) -> None:
    days = Days.make(tmp_path, SHARDS | {"also": ALSO})
    tasks, names = days.tasks(FIRST), days.application.definition_names
    for parts in (1, 2, 3, 5, 50):
        ranges = divide(tasks, names, parts)
        shards = [shard for each in ranges for shard in each]
        assert shards == [shard for each in divide(tasks, names, 1) for shard in each]
        assert all(ranges)
        assert len(ranges) <= parts
    rows = {entry.path: entry.rows or 0 for entry in read_manifest(tasks).files}
    sizes = [sum(rows[shard] for shard in each) for each in divide(tasks, names, 3)]
    assert max(sizes) < 0.6 * sum(rows.values())


def test_a_part_that_is_missing_or_of_other_days_is_told(tmp_path: Path) -> None:
    days = Days.make(tmp_path, SHARDS)
    first = days.refresh("whole", FIRST)
    ranges = divide(days.tasks(NEXT), days.application.definition_names, 2)
    parts = [generate_part(plan_of(days, "out", first), shards) for shards in ranges]
    with pytest.raises(DataError, match="no part has shard=004"):
        join_parts(plan_of(days, "out", first), parts[:1])
    damaged = Path(first) / "shard=006.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    storage.delete(parts[1])
    parts[1] = generate_part(plan_of(days, "out", first), ranges[1])
    with pytest.raises(DataError, match="carried over from other embeddings"):
        join_parts(plan_of(days, "out", first), parts)
    assert not (tmp_path / "out").exists()


def test_a_part_checks_its_own_shards_alone(tmp_path: Path) -> None:
    days = Days.make(tmp_path, SHARDS)
    ranges = divide(days.tasks(FIRST), days.application.definition_names, 2)
    damaged = storage.local_path(days.tasks(FIRST)) / ranges[1][0]
    plan = plan_of(days, "out")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    generate_part(plan, ranges[0])
    with pytest.raises(IntegrityError, match="changed after it was written"):
        generate_part(plan, ranges[1])
