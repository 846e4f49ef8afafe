"""Write down how a run ended, and release its dates."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def close_run(
    application: str,
    workspace: str,
    kind: str,
    run_id: str,
    status: dsl.PipelineTaskFinalStatus,
    summary: dsl.Output[dsl.Markdown],
):
    """Write the run's state, reason and figures below the workspace's `runs`, and release the dates it holds.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        kind: Which work was done for each date: `train`, `refresh`, `monitor` or `ab_report`.
        run_id: Kubeflow's id of the run.
        status: What Kubeflow says of the steps.
    """
    import logging
    from pathlib import Path

    from components import outcome
    from components.support import Step

    with Step("close_run") as step:
        app, place = step.open(application, workspace)
        states = outcome.close_run(app, place, run_id, kind, status.state)
        Path(summary.path).write_text(outcome.markdown(app, kind, run_id, states))
        log = logging.getLogger("components.close_run")
        for each in states:
            log.info("%s of %s: %s %s", kind, each["run_date"] or "no date", each["state"], each["reason"])
