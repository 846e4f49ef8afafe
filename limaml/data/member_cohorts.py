"""The cohort of each task's member, from visits and sign-ups before a moment."""

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from limaml import schema, storage
from limaml.cohorts import OTHER, cohort_sql
from limaml.config import Application
from limaml.data.layout import SIGNUPS, VISITS


def cohorts_of_tasks(
    application: Application, task_ids: list[str], data: str | None, before: datetime
) -> npt.NDArray[np.str_] | None:
    """[T] cohort of each task's member, or None where tasks name no member or the data root has no visits.

    Args:
        task_ids: canonical texts (`limaml.schema.task_id`); the member is found by its place among the keys.
        data: data root with `visits/` and `signups/`.
        before: only what happened before this instant counts.
    """
    keys, member = application.task.keys, application.data.member_column
    if data is None or member not in keys or not storage.exists(storage.join(data, VISITS)):
        return None
    import duckdb

    place = keys.index(member)
    members = [schema.split_task_id(text)[place] for text in task_ids]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")  # or weeks would be counted across this machine's clock changes
        connection.register("visits", _read(storage.join(data, VISITS), schema.VISIT_TIME))
        connection.register("signups", _read(storage.join(data, SIGNUPS), schema.SIGNUP_TIME))
        connection.register("wanted", pa.table({"place": np.arange(len(members)), "member": members}))
        cohort = cohort_sql("$before::TIMESTAMPTZ", "signup", "last_visit")
        rows = connection.execute(
            f"""
            WITH v AS (SELECT {schema.MEMBER}::VARCHAR AS member, max({schema.VISIT_TIME}) AS last_visit
                       FROM visits WHERE {schema.VISIT_TIME} < $before GROUP BY 1),
                 s AS (SELECT {schema.MEMBER}::VARCHAR AS member, min({schema.SIGNUP_TIME}) AS signup
                       FROM signups GROUP BY 1)
            SELECT {cohort} FROM wanted LEFT JOIN v USING (member) LEFT JOIN s USING (member) ORDER BY place
            """,
            {"before": before},
        ).fetchall()
    return np.array([row[0] for row in rows] or [OTHER][:0], dtype=np.str_)


def _read(uri: str, time_column: str) -> ds.Dataset | pa.Table:
    fs, _ = storage.filesystem(uri)
    paths = [info.path for info in storage.list_files(uri, ".parquet")]
    if not paths:
        return pa.table({schema.MEMBER: pa.array([], pa.int64()), time_column: pa.array([], schema.TIMESTAMP)})
    return ds.dataset(paths, filesystem=fs, format="parquet")
