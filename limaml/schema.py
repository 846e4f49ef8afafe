"""Every column name and type that crosses a file boundary, once.

A row's journey: `interactions/date=D` (upstream) → task sets (`task_set_schema`) → embeddings (`embedding_schema`).
Times are UTC microseconds. `row_id` is the upstream identifier of a row, 0 where the application names no such column.
"""

import pyarrow as pa

EVENT_TIME = "event_time"
LABEL = "label"
TIMESTAMP = pa.timestamp("us", tz="UTC")

# Beside the interactions, written by the simulator only: what no real log knows.
TRUE_PROBABILITY = "true_probability"

# Visits and sign-ups.
MEMBER = "member_id"
VISIT_TIME = "visit_time"
SIGNUP_TIME = "signup_time"

# Task sets: one row a sample, rows of a task contiguous and chronological.
TASK_ID = "task_id"
ROW_ID = "row_id"
IS_QUERY = "is_query"
META_NUMERIC = "meta_numeric"
META_CATEGORY = "meta_category"
OTHER_NUMERIC = "other_numeric"
OTHER_CATEGORY = "other_category"
ALSO = "also"

# Embeddings.
EMBEDDING = "embedding"
MODEL_VERSION = "model_version"
AS_OF = "as_of"
NEWEST_EVENT_TIME = "newest_event_time"
SAMPLES = "samples"
SUPPORT_DIGEST = "support_digest"
# Beside the shards of a day that carried embeddings over: tasks that the day before had and this one has not.
REMOVED = "removed.parquet"


def task_set_schema(
    meta_numeric: int, meta_category: int, other_numeric: int, other_category: int, also: int = 0
) -> pa.Schema:
    """Columns of a task set's rows; a shard holds each list as one value of bytes (`limaml.data.shards`).

    Numeric features are one fixed-size list of float32 per row (NaN for null); categorical features one fixed-size list
    of int64 codes (a stable 63-bit hash of the value's text; 0 for null). Both follow the order of the configuration.
    `also` are the row's tasks in the definitions after the first one (`limaml.data.task_ids.task_codes`).
    A width of 0 leaves its column out: Parquet can't read back lists of no items.
    """
    lists = [
        (META_NUMERIC, pa.float32(), meta_numeric),
        (META_CATEGORY, pa.int64(), meta_category),
        (OTHER_NUMERIC, pa.float32(), other_numeric),
        (OTHER_CATEGORY, pa.int64(), other_category),
        (ALSO, pa.int64(), also),
    ]
    return pa.schema(
        [
            (TASK_ID, pa.string()),
            (EVENT_TIME, TIMESTAMP),
            (ROW_ID, pa.int64()),
            (LABEL, pa.int8()),
            (IS_QUERY, pa.bool_()),
            *((name, pa.list_(kind, width)) for name, kind, width in lists if width),
        ]
    )


def embedding_schema(width: int) -> pa.Schema:
    """Columns of an embedding shard: one row a task, ordered by `task_id`.

    `as_of` is when a row was computed: a day that carries an unchanged task's embedding over keeps its older one.
    `support_digest` says what it was computed from (`limaml.data.digests`).
    """
    return pa.schema(
        [
            (TASK_ID, pa.string()),
            (EMBEDDING, pa.list_(pa.float32(), width)),
            (MODEL_VERSION, pa.string()),
            (AS_OF, TIMESTAMP),
            (NEWEST_EVENT_TIME, TIMESTAMP),
            (SAMPLES, pa.int32()),
            (SUPPORT_DIGEST, pa.uint64()),
        ]
    )


def task_id(*values: object) -> str:
    """The canonical text of a task key: values joined by `|`, with `|` and `\\` inside a value escaped by `\\`.

    >>> task_id(42, "digest")
    '42|digest'
    """
    return "|".join(str(value).replace("\\", "\\\\").replace("|", "\\|") for value in values)


def stored_id(definition: str, task: str) -> str:
    """The key of a task's embedding: its canonical text, behind the definition's name unless it is the first.

    A canonical text has no single backslash before a colon, so keys of different definitions never meet.

    >>> stored_id("member_type", "42|digest")
    'member_type\\\\:42|digest'
    """
    return f"{definition}\\:{task}" if definition else task


def split_task_id(text: str) -> list[str]:
    """The key values of a canonical task id.

    >>> split_task_id("42|digest")
    ['42', 'digest']
    """
    values, escaped = [""], False
    for character in text:
        if not escaped and character == "\\":
            escaped = True
        elif not escaped and character == "|":
            values.append("")
        else:
            values[-1] += character
            escaped = False
    return values
