"""The daily pipeline: new embeddings from the champion's θ, published and watched."""

from kfp import dsl

from components.generate_embeddings import generate_embeddings
from components.group_tasks import group_tasks
from components.monitor import monitor
from components.push_embeddings import push_embeddings
from components.validate_data import validate_data
from pipelines.naming import step


@dsl.pipeline(name="limaml-refresh", display_name="LiMAML: daily refresh of embeddings")
def refresh(application: str, workspace: str, data: str, run_date: str = ""):
    """Generate every recently active task's embedding with the champion's θ, publish the generation, and monitor it.

    Args:
        application: The application's configuration as one JSON string (`limaml config show --json`).
        workspace: URI below which everything is kept: file://… or s3://…
        data: URI of the data root that holds interactions/date=YYYY-MM-DD.
        run_date: Logical date, the first day not used; empty or an unexpanded schedule placeholder means today (UTC).
    """
    common = {"application": application, "workspace": workspace}
    validated = step(validate_data, "Validate data", **common, data=data, run_date=run_date, purpose="refresh")
    dated = {**common, "run_date": validated["run_date"]}
    tasks = step(group_tasks, "Group recent tasks", **dated, validated=validated["validated"], split="recent")["Output"]
    embeddings = step(generate_embeddings, "Generate embeddings", **common, tasks=tasks)["Output"]
    release = step(push_embeddings, "Publish the release", **common, embeddings=embeddings)["Output"]
    step(monitor, "Monitor drift and staleness", **dated, tasks=tasks, embeddings=embeddings, release=release)
