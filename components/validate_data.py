"""Check a run's window of interactions; quarantine bad rows, refuse bad data."""

from typing import NamedTuple

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def validate_data(
    application: str,
    workspace: str,
    data: str,
    run_date: str,
    purpose: str,
    manifest: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    run_id: str = "",
) -> NamedTuple("Outputs", [("run_date", str), ("validated", str)]):  # type: ignore[valid-type]
    """Check the interactions of a run's window and set bad rows aside.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        data: URI of the data root (interactions/date=YYYY-MM-DD); empty: the application's own in the workspace.
        run_date: Logical date of the run; empty or an unexpanded schedule placeholder means today (UTC).
        purpose: `train` or `refresh`: which window the run reads.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        run_date: The resolved logical date, for every later step.
        validated: URI of the validated window.
    """
    from components.support import Step, log_figures, save_page
    from limaml import windows
    from limaml.data.validation import validate
    from limaml.errors import DataError
    from limaml.manifest import find_manifest

    with Step("validate_data", run_id) as step:
        app, place = step.open(application, workspace)
        as_of = step.take(windows.resolve_run_date(run_date, app.windows.utc_offset_hours))
        if purpose == "train":
            window = windows.training_window(app.windows, as_of)
        else:
            window = windows.refresh_split(app.windows, as_of).window
        output = place.validated(window)
        refusal = None
        try:
            validate(data or place.data, output, app, window)
        except DataError as error:
            refusal = error
        # Refused data has a page as well, and a person needs that one most of all.
        validated = find_manifest(output)
        if validated is not None and validated.details["passed"] == (refusal is None):
            step.save(validated, output, manifest)
            save_page(output, report)
            log_figures(validated.counts, metrics)
        if refusal is not None:
            raise refusal
    return as_of.isoformat(), output
