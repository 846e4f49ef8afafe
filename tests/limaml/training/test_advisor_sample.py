"""What the advisor reads: every usable row once, and whole tasks where a log is larger than the room it is given."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from limaml.errors import DataError
from limaml.training.advisor_candidates import sizes
from limaml.training.advisor_options import Options
from limaml.training.advisor_sample import Sample, open_log, read_sample
from tests.limaml.training.planted_root import planted_table, write_root
from tests.limaml.training.planted_tasks import MEMBER, MEMBER_TYPE, MEMBERS, ROWS, per_member, planted_application

APPLICATION = planted_application()


def _read(root: str, options: Options, entities: tuple[str, ...] = ("member_id",)) -> Sample:
    return read_sample(open_log(root, APPLICATION), APPLICATION, ["member_id", "item_id"], ["type"], entities, options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_root(tmp_path_factory.mktemp("planted"), planted_table(0, per_member))


def test_a_small_log_is_read_whole_and_in_order(root: str) -> None:
    table = planted_table(0, per_member).sort_by("event_time")
    sample = _read(root, Options())
    assert (len(sample.day), sample.fraction, sample.skipped) == (ROWS, 1.0, 0)
    np.testing.assert_array_equal(sample.label, table["label"].to_numpy())
    np.testing.assert_array_equal(sample.numeric[:, 1], table["item_x"].to_numpy().astype(np.float32))
    assert (np.diff(sample.day) >= 0).all()
    # Equal tasks are equal keys: numbering differs, the partition does not.
    expected = np.unique(table["member_id"].to_numpy(), return_inverse=True)[1]
    pairs = {(int(a), int(b)) for a, b in zip(MEMBER.tasks(sample), expected, strict=True)}
    assert len(pairs) == MEMBERS


def test_a_large_log_is_sampled_by_whole_tasks(root: str) -> None:
    whole, part = _read(root, Options()), _read(root, Options(rows=ROWS // 4, seed=3))
    assert part.fraction == 0.25
    kept = set(part.keys["member_id"].tolist())
    rows = np.isin(whole.keys["member_id"], list(kept))
    # All rows of the members kept, none of any other.
    np.testing.assert_array_equal(part.label, whole.label[rows])
    assert len(kept) == pytest.approx(MEMBERS / 4, rel=0.3)
    for candidate in (MEMBER, MEMBER_TYPE):
        estimated, true = sizes(candidate.tasks(part), part.fraction), sizes(candidate.tasks(whole), 1.0)
        assert estimated.tasks == pytest.approx(true.tasks, rel=0.3)
        assert estimated.median_samples == pytest.approx(true.median_samples, abs=2)
    other = _read(root, Options(rows=ROWS // 4, seed=4))
    assert set(other.keys["member_id"].tolist()) != kept


def test_each_entity_has_its_own_sample(root: str) -> None:
    sample = _read(root, Options(rows=ROWS // 4), ("member_id", "item_id"))
    assert (sample.kept["member_id"] | sample.kept["item_id"]).all()
    for entity in ("member_id", "item_id"):
        inside = set(sample.keys[entity][sample.kept[entity]].tolist())
        outside = set(sample.keys[entity][~sample.kept[entity]].tolist())
        assert inside
        assert not inside & outside


def _spoil(table: pa.Table, column: str, rows: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[:rows] = [value] * rows
    return table.set_column(table.schema.get_field_index(column), column, pa.array(values, table[column].type))


def test_rows_without_label_or_key_are_left_out_and_counted(tmp_path: Path) -> None:
    table = _spoil(_spoil(planted_table(0, per_member), "label", 40, 7), "member_id", 60, None)
    table = _spoil(table, "type", 120, None)
    sample = _read(write_root(tmp_path, table), Options())
    assert (sample.skipped, len(sample.day)) == (60, ROWS - 60)
    # A column that is only proposed may have nulls; how many decides whether it is proposed.
    assert sample.null_share == {"member_id": 0, "item_id": 0, "type": 60 / (ROWS - 60)}


def test_too_many_unusable_rows_are_refused(tmp_path: Path) -> None:
    root = write_root(tmp_path, _spoil(planted_table(0, per_member), "label", 130, None))
    with pytest.raises(DataError, match=r"130 of 12,000 rows .*quarantine_budget allows \(1.00%\)"):
        _read(root, Options())


def test_no_interactions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no date=YYYY-MM-DD partitions"):
        open_log(str(tmp_path), APPLICATION)
