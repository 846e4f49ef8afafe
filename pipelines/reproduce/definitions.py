"""Other definitions of a task on the same log: by member and kind (the paper's pClick), by item (its pInvite)."""

import logging

import pyarrow.dataset as ds

from limaml import storage
from limaml.config import Application, Feature
from limaml.data.layout import INTERACTIONS
from limaml.errors import ConfigError
from pipelines.reproduce.variants import changed

log = logging.getLogger(__name__)


def name_of(application: Application) -> str:
    """A task definition's name: its key columns."""
    return "+".join(application.task.keys)


def by_kind(application: Application) -> list[Application]:
    """The application, and its tasks split by a kind – or, where they are split by several keys, not split by the last.

    The kind is the first categorical feature of the global block, such as the type of a notification. It describes the
    task then, so it feeds the meta block.
    """
    keys = application.task.keys
    if len(keys) > 1:
        left = {feature.name for feature in application.features.meta} - {keys[-1]}
        return [_of(application, keys[:-1], left), application]
    kinds = [f.name for f in application.features.other if f.kind == "categorical" and f.name not in keys]
    if not kinds:
        log.warning(
            "%s: no categorical feature to split tasks by; only its own definition is measured", name_of(application)
        )
        return [application]
    kind = kinds[0]
    meta = {feature.name for feature in application.features.meta} | {kind}
    return [application, _of(application, (*keys, kind), meta)]


def by_side(application: Application, data: str) -> list[Application]:
    """The application, and tasks of the other side: of items where its tasks are members', of members where not.

    The log says which features describe the other side: those that never differ within one of its keys.
    """
    member, item = application.data.member_column, application.data.item_column
    key = member if application.task.keys == (item,) else item
    constant = constant_features(application, data, key)
    if not constant or len(constant) == len(application.features.all):
        log.warning("%s: no feature describes it alone; only the application's own tasks are measured", key)
        return [application]
    return [application, _of(application, (key,), constant)]


def constant_features(application: Application, data: str, key: str) -> set[str]:
    """Features with at most one value, besides null, for each value of a key column.

    Raises:
        ConfigError: the log has no such column.
    """
    import duckdb

    uri = storage.join(data, INTERACTIONS)
    fs, _ = storage.filesystem(uri)
    paths = [info.path for info in storage.list_files(uri, ".parquet")]
    rows = ds.dataset(paths, filesystem=fs, format="parquet")
    if key not in rows.schema.names:
        raise ConfigError(f"{data}: no column {key} to make tasks of")
    names = [feature.name for feature in application.features.all if feature.name != key]
    counts = ", ".join(f'count(DISTINCT "{name}") AS "{name}"' for name in names)
    most = ", ".join(f'max("{name}")' for name in names)
    with duckdb.connect() as connection:
        connection.register("log", rows)
        found = connection.execute(f'SELECT {most} FROM (SELECT {counts} FROM log GROUP BY "{key}")').fetchone()
    assert found is not None, "an aggregate has one row"
    constant = {name for name, count in zip(names, found, strict=True) if count is not None and count <= 1}
    return constant | ({key} & {feature.name for feature in application.features.all})


def _of(application: Application, keys: tuple[str, ...], meta: set[str]) -> Application:
    """The application with other tasks; `meta` names what describes them, all else feeds the global block."""

    def side(belongs: bool) -> list[dict]:
        features: list[Feature] = [f for f in application.features.all if (f.name in meta) == belongs]
        return [feature.model_dump(mode="json") for feature in features]

    alone = application.model_copy(update={"also": ()})
    other = changed(alone, task={"keys": list(keys)}, features={"meta": side(True), "other": side(False)})
    return other.model_copy(update={"name": f"{application.name}__by_{'_'.join(keys)}".lower()})
