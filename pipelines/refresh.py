"""The daily pipeline: new embeddings from the champion's θ, published and watched."""

from typing import Any

from kfp import dsl

from components.group_tasks import group_tasks
from components.monitor import monitor
from components.validate_data import validate_data
from pipelines.fan_out import add_generation, add_push
from pipelines.setup import Setup


def refresh(setup: Setup) -> Any:
    """The daily refresh of an application."""

    @dsl.pipeline(name="limaml-refresh", display_name="LiMAML: daily refresh of embeddings")
    def refresh(
        application: str = setup.text,
        workspace: str = setup.workspace,
        data: str = setup.data,
        run_date: str = "",
        image: str = setup.image,
    ):
        """Generate every recently active task's embedding with the champion's theta, publish the generation, and monitor it.

        Args:
            application: The application: its configuration as one JSON string (`limaml config show --json`) or the name of a shipped one.
            workspace: URI below which everything is kept: s3://... or file://...
            data: URI of the data root that holds interactions/date=YYYY-MM-DD; empty: <workspace>/<application>/data.
            run_date: Logical date, the first day not used; empty or an unexpanded schedule placeholder means today (UTC).
            image: Container image of every step.
        """
        with setup.run("refresh", "Refresh", image, application, workspace) as common:
            refresh_day(setup, common, data, run_date)

    return refresh


def refresh_day(setup: Setup, common: dict[str, Any], data: Any, run_date: Any, alone: bool = False) -> None:
    """Add the steps of one day's refresh to the pipeline being defined; `alone` where they are in a loop already."""
    validated = setup.add(validate_data, "Validate data", **common, data=data, run_date=run_date, purpose="refresh")
    dated = {**common, "run_date": validated["run_date"]}
    tasks = setup.add(group_tasks, "Group recent tasks", **dated, validated=validated["validated"], split="recent")
    embeddings = add_generation(setup, "Generate embeddings", dated, alone, tasks=tasks["Output"])
    release = add_push(setup, dated, alone, embeddings=embeddings)
    setup.add(monitor, "Monitor drift and staleness", **dated, embeddings=embeddings, release=release)
