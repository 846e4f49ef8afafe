"""Task sets: interactions of a window grouped into whole tasks (§6.1), written once and streamed as ragged batches."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from limaml.config import Application
from limaml.data.batches import TaskBatch
from limaml.data.group_embedded import write_shards
from limaml.data.group_job import GroupJob, Shards, feature_widths
from limaml.data.pieces import Piece, pieces_of_part
from limaml.data.shards import open_shard
from limaml.errors import ConfigError, DataError
from limaml.manifest import FileEntry, Manifest, file_uri, files_of, read_manifest, verify_files
from limaml.schema import ALSO
from limaml.stage import Stage
from limaml.windows import TRAIN, TaskSplit, Window

# Rows held at once while tasks are shuffled.
POOL_ROWS = 1 << 19


def group_tasks(validated: str, output: str, application: Application, split: TaskSplit) -> Manifest:
    """Group a split's validated interactions into whole tasks: sorted by time, capped, support before query.

    Without a boundary a task keeps its most recent `task.max_samples` rows, the oldest `task.support_fraction` of them
    (rounded down, one row always left to query) are support; with one, rows before it are support, capped alike, and
    all rows from it on are query. Memory is bounded by a bucket; see `limaml.data.grouping`. `grouping.engine` says who
    does it, here or on Spark, to the same bytes.

    With several task definitions the rows are grouped by each of them, one after the other, into a folder of its own,
    except for training, which forms the others' tasks from the rows of a batch. Where those are not parts of the first
    definition's tasks, training is split by time as well (`training_boundary`).

    Raises:
        DataError: the data failed validation or its window does not cover the split's, a file can't be used, or no row
            lies in the window.
        IntegrityError: a file differs from what was validated.
        StorageError: the output can't be written.
    """
    stage, job = plan_tasks(validated, output, application, split)
    if application.grouping.engine == "spark":
        from limaml.data.spark import write_shards as write_by_spark

        return stage.assemble(lambda place: _build(stage, job, lambda each: write_by_spark(each, place)))
    return stage.run(lambda directory: _build(stage, job, lambda each: write_shards(each, directory)))


def plan_tasks(validated: str, output: str, application: Application, split: TaskSplit) -> tuple[Stage, GroupJob]:
    """What `group_tasks` will do: its stage, and the first definition's job.

    Raises:
        DataError: the data failed validation or its window does not cover the split's.
    """
    source = read_manifest(validated, "validated")
    if not source.details.get("passed"):
        raise DataError(f"{validated}: the data did not pass validation; see its validation.html, then validate again")
    _check_window(validated, source, split)
    split = training_boundary(application, split)
    sides = (application.features.meta, application.features.other)
    stage = Stage(
        "task_set",
        output,
        application,
        ("task", "also"),
        {
            "validated": source.digest,
            "split": split.model_dump(mode="json"),
            "features": [[(feature.name, feature.kind) for feature in side] for side in sides],
            "row_id_column": application.data.row_id_column,
            "shards": application.grouping.shards,
        },
        version=2,
    )
    return stage, GroupJob(application, split, application.task, "", validated, tuple(source.files))


def training_boundary(application: Application, split: TaskSplit) -> TaskSplit:
    """The split, with a boundary where support and query rows can't be told apart task by task.

    A task of another definition has support rows from several of the first one's tasks. Unless it lies within one of
    them (its keys include the first's), these may be later than a query row, so one instant divides them all: the start
    of the day that leaves `task.support_fraction` of the days before it.
    """
    first = set(application.task.keys)
    if split.boundary is not None or all(first <= set(each.keys) for each in application.also):
        return split
    days = split.window.days
    if len(days) < 2:
        raise ConfigError(f"windows.train_days: {len(days)}, but a support and a query window need at least 2")
    support_days = min(max(round(len(days) * application.task.support_fraction), 1), len(days) - 1)
    return split.model_copy(update={"boundary": days[support_days]})


def _check_window(validated: str, source: Manifest, split: TaskSplit) -> None:
    if "window" not in source.details:
        return
    have, need = Window.model_validate(source.details["window"]), split.window
    if have.start_time > need.start_time or have.end_time < need.end_time:
        raise DataError(
            f"{validated}: validated [{have.start}, {have.end}), but the {split.name} tasks need "
            f"[{need.start}, {need.end}); validate that window"
        )


def _build(stage: Stage, job: GroupJob, write: Callable[[GroupJob], Shards]) -> Manifest:
    application = stage.application
    counts, files = write(job)
    details: dict[str, Any] = {
        "split": job.split.model_dump(mode="json"),
        "widths": feature_widths(application),
    }
    if application.also:
        details[ALSO] = {}
    for definition in application.also if job.split.name != TRAIN else ():
        details[ALSO][definition.name], more = write(replace(job, definition=definition, folder=definition.name))
        files += more
    return stage.manifest(sorted(files, key=lambda entry: entry.path.split("/")), counts, details)


@dataclass(frozen=True)
class TaskSet:
    """A finished task set, or one of several parts of it, streamed as batches of whole tasks.

    Attributes:
        uri: of the directory.
        manifest: of the whole set.
        definition: name of the task definition whose tasks these are; empty for the first.
        number: which part this is, of `parts`.
        parts: how many parts there are; 1 is the whole set.
    """

    uri: str
    manifest: Manifest
    definition: str = ""
    number: int = 0
    parts: int = 1

    @classmethod
    def open(cls, uri: str, verify: bool = True) -> Self:
        """Open a task set; `verify` checks every file's SHA-256 first.

        Raises:
            DataError: there is no finished task set.
            IntegrityError: a file is missing or differs from its manifest entry.
        """
        manifest = read_manifest(uri, "task_set")
        if verify:
            verify_files(uri, manifest)
        return cls(uri, manifest)

    def of(self, definition: str) -> Self:
        """The same rows grouped by another task definition; an empty name is the first one.

        Raises:
            DataError: they were not grouped by it.
        """
        if definition and definition not in self.manifest.details.get(ALSO, {}):
            raise DataError(f"{self.uri}: holds no tasks of {definition!r}; group the tasks again")
        return replace(self, definition=definition)

    @property
    def further(self) -> list[str]:
        """Names of the definitions after the first that the rows were grouped by as well."""
        return list(self.manifest.details.get(ALSO, {}))

    def part(self, number: int, parts: int) -> Self:
        """One of `parts` parts: each task is in exactly one of them, and parts have about equally many rows.

        Which part a task is in depends on the files and on `parts` alone; see `limaml.data.pieces`.
        """
        return replace(self, number=number, parts=parts)

    @cached_property
    def tasks(self) -> int:
        """How many tasks there are; a part reads its task ids to know."""
        if self.parts == 1:
            return self.counts["tasks"]
        with ExitStack() as stack:
            return sum(piece.count_tasks() for piece in self._pieces(stack))

    @property
    def counts(self) -> dict[str, int]:
        """Tasks, rows, support and query rows of the definition's whole set."""
        return self.manifest.details[ALSO][self.definition] if self.definition else self.manifest.counts

    @property
    def files(self) -> list[FileEntry]:
        """The definition's shards."""
        return files_of(self.manifest, self.definition)

    @property
    def rows(self) -> int:
        """How many rows the whole set has."""
        return self.counts["rows"]

    def batch_count(self, tasks_per_batch: int) -> int:
        """How many batches an epoch has."""
        return -(-self.tasks // tasks_per_batch)

    def batches(self, tasks_per_batch: int, seed: int | None = None, epoch: int = 0) -> Iterator[TaskBatch]:
        """Every task once, in batches of `tasks_per_batch` (the last one may be smaller).

        Without a seed tasks come in the order of the files. With one they are shuffled by (seed, epoch, number of the
        part): row groups of all shards in random order, the tasks of a pool of them at random. Tasks of similar length
        are not put together: it would save padding, but no batch would look like the data, which costs accuracy.
        Memory is bounded by the pool.
        """
        if not self.counts["tasks"]:
            return
        generator = None if seed is None else np.random.default_rng([seed, epoch, self.number])
        carried: list[TaskBatch] = []
        for loaded in self._pools(generator):
            pool = TaskBatch.concatenate([*carried, *loaded])
            full = pool.tasks // tasks_per_batch * tasks_per_batch
            order = np.arange(pool.tasks) if generator is None else generator.permutation(pool.tasks)
            for chosen in order[:full].reshape(-1, tasks_per_batch):
                yield pool.take(chosen)
            carried = [pool.take(order[full:])] if full < pool.tasks else []
        yield from carried

    def _pools(self, generator: np.random.Generator | None) -> Iterator[list[TaskBatch]]:
        """Row groups of about `POOL_ROWS` rows together; one at a time where nothing is shuffled."""
        widths = self.manifest.details["widths"]
        with ExitStack() as stack:
            pieces = self._pieces(stack)
            if generator is not None:
                pieces = [pieces[index] for index in generator.permutation(len(pieces))]
            loaded: list[TaskBatch] = []
            for piece in pieces:
                loaded.append(piece.read(widths))
                if generator is None or sum(batch.rows for batch in loaded) >= POOL_ROWS:
                    yield loaded
                    loaded = []
            if loaded:
                yield loaded

    def _pieces(self, stack: ExitStack) -> list[Piece]:
        """What is to be read, in the order of the files, which stay open as long as `stack`."""
        files = [stack.enter_context(open_shard(file_uri(self.uri, entry))) for entry in self.files]
        return pieces_of_part(files, self.number, self.parts)
