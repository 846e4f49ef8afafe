"""A range of past dates, refreshed one after the other, as far as they are not."""

from typing import Any

from kfp import dsl

from components.plan_backfill import plan_backfill
from pipelines.refresh import refresh_day
from pipelines.setup import Setup


def backfill(setup: Setup) -> Any:
    """The backfill of an application."""

    @dsl.pipeline(name="limaml-backfill", display_name="LiMAML: refresh a range of past dates")
    def backfill(
        first_date: str,
        last_date: str,
        application: str = setup.text,
        workspace: str = setup.workspace,
        data: str = setup.data,
        image: str = setup.image,
    ):
        """Refresh every date of a range that has not been refreshed, oldest first; started again, it goes on where it ended.

        Embeddings and drift are made for each date. The store only moves forward: a date before the current release's leaves it as it is.

        Args:
            first_date: First logical date, YYYY-MM-DD.
            last_date: Last logical date, itself included; at most 92 dates.
            application: The application: its configuration as one JSON string (`limaml config show --json`) or the name of a shipped one.
            workspace: URI below which everything is kept: s3://... or file://...
            data: URI of the data root that holds interactions/date=YYYY-MM-DD; empty: <workspace>/<application>/data.
            image: Container image of every step.
        """
        with setup.run("refresh", "Backfill", image, application, workspace) as common:
            # No title: Kubeflow loses the list of a producer that has one.
            dates = setup.add(plan_backfill, "", **common, first_date=first_date, last_date=last_date)
            with dsl.ParallelFor(dates["Output"], parallelism=1) as run_date:
                refresh_day(setup, common, data, run_date, alone=True)

    return backfill
