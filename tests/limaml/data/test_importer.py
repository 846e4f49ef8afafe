import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from limaml import storage
from limaml.cli import simulate as commands
from limaml.cli.common import run
from limaml.config import Application, parse_application
from limaml.data.importer import import_log
from limaml.errors import ConfigError, DataError
from limaml.manifest import verify_files

START = datetime(2024, 2, 27, 12, tzinfo=UTC)
OFFSET = 8


@pytest.fixture(scope="module")
def news() -> Application:
    return parse_application(
        {
            "name": "news",
            "title": "Flat log for tests",
            "task": {"keys": ["user"]},
            "data": {
                "member_column": "user",
                "item_column": "item",
                "source": {
                    "aggregates": [
                        {"name": "item_rate", "keys": ["item"]},
                        {"name": "pair_rate", "keys": ["user", "kind"], "smoothing": 3.5},
                        {"name": "user_count", "keys": ["user"], "statistic": "count"},
                    ]
                },
            },
            "features": {"meta": ["user_count"], "other": ["item_rate", "pair_rate", "length"]},
            "windows": {"utc_offset_hours": OFFSET},
        },
        "tests",
    )


def flat_log(rows: int = 300, seed: int = 0) -> pa.Table:
    """Unsorted, with null kinds, ties in time, and a day (the fourth) without rows."""
    rng = np.random.default_rng(seed)
    seconds = rng.integers(0, 6 * 24, rows) * 3600
    day = (seconds + (START.hour + OFFSET) * 3600) // 86400
    seconds[day == 3] -= 86400
    kinds = np.array(["a", "it's", None], dtype=object)[rng.integers(0, 3, rows)]
    return pa.table(
        {
            "user": rng.integers(1, 12, rows),
            "event_time": pa.array([START + timedelta(seconds=int(s)) for s in seconds], pa.timestamp("us", tz="UTC")),
            "label": pa.array(rng.integers(0, 2, rows), pa.int8()),
            "item": [f"i{n}" for n in rng.integers(0, 9, rows)],
            "kind": pa.array(kinds, pa.large_string()),
            "length": rng.random(rows),
            "order": np.arange(rows),
        }
    )


def write(path: Path, table: pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=100)
    return str(path)


def read(root: Path) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(p).read() for p in sorted((root / "interactions").rglob("*.parquet"))])


def logical_day(row: dict[str, Any]) -> Any:
    return row["event_time"].astimezone(timezone(timedelta(hours=OFFSET))).date()


def expected(table: pa.Table) -> list[dict[str, Any]]:
    """The slow way: for every row, look at every row of an earlier logical day."""
    rows = sorted(table.to_pylist(), key=lambda row: (row["event_time"], row["order"]))
    for row in rows:
        past = [other for other in rows if logical_day(other) < logical_day(row) and other["label"] in (0, 1)]
        prior = sum(other["label"] for other in past) / len(past) if past else 0.5

        def rate(keys: list[str], smoothing: float, row: Any = row, past: Any = past, prior: float = prior) -> float:
            same = [other["label"] for other in past if all(other[key] == row[key] for key in keys)]
            return (sum(same) + smoothing * prior) / (len(same) + smoothing)

        row["item_rate"] = rate(["item"], 20)
        row["pair_rate"] = rate(["user", "kind"], 3.5)
        row["user_count"] = float(sum(other["user"] == row["user"] for other in past))
    return rows


def assert_imported(root: Path, table: pa.Table) -> None:
    found, wanted = read(root).to_pylist(), expected(table)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        computed = {name: other.pop(name) for name in ("item_rate", "pair_rate", "user_count")}
        assert {name: one.pop(name) for name in computed} == pytest.approx(computed, rel=1e-12)
        assert one == other


def test_aggregates_equal_a_slow_recomputation(tmp_path: Path, news: Application) -> None:
    table = flat_log()
    manifest = import_log(write(tmp_path / "log.parquet", table), str(tmp_path / "data"), news)
    assert_imported(tmp_path / "data", table)
    verify_files(storage.normalize(tmp_path / "data"), manifest)
    assert manifest.counts == {"rows": 300, "days": 6, "source_files": 1}
    assert (manifest.details["start"], manifest.details["end"]) == ("2024-02-27", "2024-03-05")


def test_a_row_lies_in_its_logical_day_and_keeps_its_columns(tmp_path: Path, news: Application) -> None:
    table = flat_log()
    import_log(write(tmp_path / "log.parquet", table), str(tmp_path / "data"), news)
    for path in sorted((tmp_path / "data/interactions").iterdir()):
        (part,) = path.iterdir()
        day = pq.ParquetFile(part).read()
        assert {f"date={logical_day(row)}" for row in day.to_pylist()} == {path.name}
        assert day.column_names == [*table.column_names, "item_rate", "pair_rate", "user_count"]
        assert day.schema.field("event_time").type == pa.timestamp("us", tz="UTC")
        assert day.schema.field("label").type == pa.int8()


def test_nothing_of_a_day_or_later_reaches_its_features(tmp_path: Path, news: Application) -> None:
    table = flat_log()
    last = max(logical_day(row) for row in table.to_pylist())
    label = [1 - row["label"] if logical_day(row) == last else row["label"] for row in table.to_pylist()]
    other = table.set_column(2, "label", pa.array(label, pa.int8()))
    for name, one in (("a", table), ("b", other)):
        import_log(write(tmp_path / f"{name}.parquet", one), str(tmp_path / name), news)
    features = ["item_rate", "pair_rate", "user_count"]
    assert read(tmp_path / "a").select(features).equals(read(tmp_path / "b").select(features))


def test_a_directory_of_files_is_one_log_in_the_order_of_names(tmp_path: Path, news: Application) -> None:
    table = flat_log()
    for position in range(3):
        write(tmp_path / f"log/part-{position}.parquet", table.slice(position * 100, 100))
    write(tmp_path / "log/_temporary/part-0.parquet", table)
    manifest = import_log(str(tmp_path / "log"), str(tmp_path / "data"), news)
    assert manifest.counts["source_files"] == 3
    assert_imported(tmp_path / "data", table)


@pytest.mark.parametrize("kind", [pa.timestamp("ms", tz="Asia/Shanghai"), pa.timestamp("ns", tz="UTC")])
def test_times_of_any_unit_and_zone_are_the_same_instants(tmp_path: Path, news: Application, kind: pa.DataType) -> None:
    table = flat_log(200)
    other = table.set_column(1, "event_time", table["event_time"].cast(kind))
    import_log(write(tmp_path / "log.parquet", other), str(tmp_path / "data"), news)
    assert_imported(tmp_path / "data", table)


def test_odd_labels_are_passed_on_but_never_counted(tmp_path: Path, news: Application) -> None:
    table = flat_log()
    label = table["label"].to_numpy().astype(object)
    label[::7] = 2
    label[1::7] = None
    table = table.set_column(2, "label", pa.array(label, pa.int8()))
    import_log(write(tmp_path / "log.parquet", table), str(tmp_path / "data"), news)
    assert_imported(tmp_path / "data", table)


def test_a_rerun_is_recognised_and_a_changed_log_is_imported_again(tmp_path: Path, news: Application) -> None:
    source, output = tmp_path / "log.parquet", str(tmp_path / "data")
    first = import_log(write(source, flat_log()), output, news)
    assert import_log(str(source), output, news).created_at == first.created_at
    trained_longer = news.model_copy(update={"training": news.training.model_copy(update={"epochs": 99})})
    assert import_log(str(source), output, trained_longer).created_at == first.created_at
    assert import_log(write(source, flat_log(seed=1)), output, news).digest != first.digest
    assert import_log(write(source, flat_log()), output, news).digest == first.digest


def without_zone(table: pa.Table) -> pa.Table:
    return table.set_column(1, "event_time", table["event_time"].cast(pa.timestamp("us")))


def without_a_time(table: pa.Table) -> pa.Table:
    times = table["event_time"].to_pylist()
    return table.set_column(1, "event_time", pa.array([None, None, *times[2:]], pa.timestamp("us", tz="UTC")))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_zone, r"log\.parquet: column 'event_time' has type timestamp\[us\]"),
        (without_a_time, "column event_time: 2 rows without a time"),
        (lambda table: table.drop_columns(["length"]), r"log\.parquet: column 'length' is missing"),
        (lambda table: table.drop_columns(["kind"]), r"log\.parquet: column 'kind' is missing; aggregate pair_rate"),
        (lambda table: table.set_column(2, "label", table["label"].cast(pa.float32())), "'label' has type float"),
        (lambda table: table.append_column("item_rate", table["length"]), "column 'item_rate' is there already"),
        (lambda table: table.slice(0, 0), "no rows to import"),
    ],
)
def test_a_log_that_can_not_be_used_says_why(
    tmp_path: Path, news: Application, damage: Callable[[pa.Table], pa.Table], message: str
) -> None:
    source = write(tmp_path / "log.parquet", damage(flat_log(50)))
    with pytest.raises(DataError, match=message):
        import_log(source, str(tmp_path / "data"), news)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:200] + bytes(300) + data[500:]])
def test_a_damaged_file_is_named(tmp_path: Path, news: Application, damage: Callable[[bytes], bytes]) -> None:
    source = tmp_path / "log.parquet"
    write(source, flat_log())
    source.write_bytes(damage(source.read_bytes()))
    with pytest.raises(DataError, match=r"log\.parquet"):
        import_log(str(source), str(tmp_path / "data"), news)
    assert not (tmp_path / "data").exists()


def test_what_needs_no_import_or_would_be_lost_is_refused(tmp_path: Path, news: Application) -> None:
    source = write(tmp_path / "log/part.parquet", flat_log(50))
    with pytest.raises(ConfigError, match=r"nothing\.parquet: no parquet file there"):
        import_log(str(tmp_path / "nothing.parquet"), str(tmp_path / "data"), news)
    with pytest.raises(ConfigError, match="lies inside the source"):
        import_log(str(tmp_path / "log"), str(tmp_path / "log/data"), news)
    with pytest.raises(ConfigError, match="files that no stage wrote"):
        import_log(source, str(tmp_path / "log"), news)
    import_log(source, str(tmp_path / "data"), news)
    with pytest.raises(ConfigError, match="needs no import"):
        import_log(str(tmp_path / "data"), str(tmp_path / "again"), news)


def test_the_command_ends_with_the_documented_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    commands.register(app)
    table = flat_log(100)
    table = table.rename_columns(
        [{"user": "user_id", "item": "item_id", "kind": "type"}.get(n, n) for n in table.column_names]
    )
    source = write(tmp_path / "log.parquet", table)
    monkeypatch.setattr(
        "sys.argv", ["limaml", "import", "--app", "movietweetings", "--source", source, "--output", "x"]
    )
    assert run(app) == 3
    assert "column 'year' is missing" in capsys.readouterr().err
    source = write(tmp_path / "log.parquet", table.append_column("year", pa.array(np.full(100, 1999))))
    output = str(tmp_path / "data")
    arguments = ["import", "--app", "movietweetings", "--source", source, "--output", output, "--json"]
    monkeypatch.setattr("sys.argv", ["limaml", *arguments])
    assert run(app) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 100
