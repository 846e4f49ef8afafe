"""Which dates of a range still have to be made up for."""

from typing import List

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def plan_backfill(application: str, workspace: str, first_date: str, last_date: str, run_id: str = "") -> List[str]:
    """List the dates of a range whose refresh has not succeeded yet, the oldest first.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        first_date: First logical date.
        last_date: Last logical date, itself included.
        run_id: Kubeflow's id of the run; empty outside a run.

    Returns:
        The dates, as YYYY-MM-DD.
    """
    import logging

    from components.outcome import unfinished
    from components.support import Step
    from limaml import windows

    with Step("plan_backfill", run_id) as step:
        app, place = step.open(application, workspace)
        asked = windows.parse_dates(first_date, last_date, app.windows.utc_offset_hours)
        dates = [day.isoformat() for day in unfinished(place, "refresh", asked)]
        log = logging.getLogger("components.plan_backfill")
        log.info("%d of %d dates to refresh: %s", len(dates), len(asked), ", ".join(dates) or "all are finished")
    return dates
