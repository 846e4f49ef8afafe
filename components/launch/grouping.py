"""Task grouping in the pods of a SparkApplication."""

from datetime import date

from components.launch import spark_application
from components.launch.api import in_cluster
from limaml.config import Application
from limaml.data.tasks import plan_tasks
from limaml.manifest import Manifest, read_manifest
from limaml.windows import TaskSplit


def is_elsewhere(application: Application) -> bool:
    """Whether tasks are to be grouped by other pods; without a cluster Spark runs in the step's process."""
    return application.grouping.engine == "spark" and in_cluster()


def group_elsewhere(
    application: Application, validated: str, output: str, as_of: date, name: str, split: TaskSplit
) -> Manifest:
    """Group the tasks of a date's split as `group_tasks` does; the same files in the same place.

    Raises:
        KubeflowError: see `Launch.run`.
        LimamlError: the error that grouping ended with.
    """
    stage, _ = plan_tasks(validated, output, application, split)
    if (finished := stage.finished()) is not None:
        return finished
    arguments = ["--validated", validated, "--output", output, "--date", as_of.isoformat(), "--split", name]
    spark_application.group(application, stage.fingerprint, arguments)
    return read_manifest(output, "task_set")
