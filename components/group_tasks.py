"""Group a validated window into tasks."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def group_tasks(
    application: str,
    workspace: str,
    run_date: str,
    validated: str,
    split: str,
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Group validated rows by task, chronologically, with a support/query boundary.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        validated: URI of the validated window.
        split: `train`, `validation`, `test`, or `recent` for a daily refresh.

    Returns:
        URI of the task set.
    """
    from datetime import date

    from components.support import Step, log_figures, save
    from limaml.config import application_from_parameter
    from limaml.data.tasks import group_tasks as group
    from limaml.windows import refresh_split, training_splits
    from limaml.workspace import Workspace

    with Step():
        app = application_from_parameter(application)
        as_of = date.fromisoformat(run_date)
        splits = {**training_splits(app.windows, as_of), "recent": refresh_split(app.windows, as_of)}
        output = Workspace(workspace, app.name).tasks(splits[split])
        tasks = group(validated, output, app, splits[split])
        save(tasks, output, manifest)
        log_figures(tasks.counts, metrics)
    return output
