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
    run_id: str = "",
) -> str:
    """Group validated rows by task, chronologically, with a support/query boundary.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        validated: URI of the validated window.
        split: `train`, `validation`, `test`, or `recent` for a daily refresh.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        URI of the task set.
    """
    from datetime import date

    from components.launch.grouping import group_elsewhere, is_elsewhere
    from components.support import Step, log_figures
    from limaml.data.tasks import group_tasks as group
    from limaml.windows import refresh_split, training_splits

    with Step(f"group_tasks_{split}", run_id) as step:
        app, place = step.open(application, workspace)
        as_of = step.take(date.fromisoformat(run_date))
        splits = {**training_splits(app.windows, as_of), "recent": refresh_split(app.windows, as_of)}
        output = place.tasks(splits[split])
        if is_elsewhere(app):
            tasks = group_elsewhere(app, validated, output, as_of, split, splits[split])
        else:
            tasks = group(validated, output, app, splits[split])
        step.save(tasks, output, manifest)
        log_figures(tasks.counts, metrics)
    return output
