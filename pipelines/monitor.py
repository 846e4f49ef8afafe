"""The hourly pipeline: is what is served fresh, whole and of one model, and does the world look as in training?"""

from typing import Any

from kfp import dsl

from components.monitor import monitor as monitor_step
from pipelines.setup import Setup


def monitor(setup: Setup) -> Any:
    """The watch over what an application serves."""

    @dsl.pipeline(name="limaml-monitor", display_name="LiMAML: watch over what is served")
    def monitor(
        application: str = setup.text,
        workspace: str = setup.workspace,
        run_date: str = "",
        image: str = setup.image,
    ):
        """Look at the current release without making a new one: age, coverage, versions, canary and drift, as of now.

        Args:
            application: The application: its configuration as one JSON string (`limaml config show --json`) or the name of a shipped one.
            workspace: URI below which everything is kept: s3://... or file://...
            run_date: Logical date the result is filed under; empty or an unexpanded schedule placeholder means today (UTC).
            image: Container image of every step.
        """
        with setup.run("monitor", "Monitor", image, application, workspace) as common:
            setup.add(monitor_step, "Look at the current release", **common, run_date=run_date)

    return monitor
