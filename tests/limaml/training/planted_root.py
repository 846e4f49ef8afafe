"""A planted log on disk: a flat parquet file, and the data root imported from it."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.data.importer import import_log
from limaml.schema import TIMESTAMP
from tests.limaml.training.planted_tasks import Planted, planted_application, planted_columns

_START = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1e6)
_DAY = 86_400_000_000


def planted_table(seed: int, planted: Planted) -> pa.Table:
    columns = planted_columns(seed, planted)
    day = columns.pop("day")
    within = np.random.default_rng(seed).integers(0, _DAY, len(day))
    table = pa.table(columns).set_column(3, "type", pa.array([f"kind{k}" for k in columns["type"]]))
    return table.append_column("event_time", pa.array(_START + day * _DAY + within).cast(TIMESTAMP))


def write_flat(path: Path, table: pa.Table) -> str:
    pq.write_table(table, path)
    return storage.normalize(path)


def write_root(folder: Path, table: pa.Table) -> str:
    source, root = write_flat(folder / "flat.parquet", table), storage.normalize(folder / "data")
    import_log(source, root, planted_application())
    return root
