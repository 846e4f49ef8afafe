"""The periodic training pipeline: from interactions to a published release, when the gate promotes it."""

from kfp import dsl

from components.gate_theta import gate_theta
from components.generate_embeddings import generate_embeddings
from components.group_tasks import group_tasks
from components.push_embeddings import push_embeddings
from components.train_theta import train_theta
from components.validate_data import validate_data
from pipelines.naming import step


@dsl.pipeline(name="limaml-train", display_name="LiMAML: train θ, gate and publish")
def train(application: str, workspace: str, data: str, run_date: str = ""):
    """Train θ, judge it together with the embeddings it generates, and publish the pair when it is promoted.

    Args:
        application: The application's configuration as one JSON string (`limaml config show --json`).
        workspace: URI below which everything is kept: file://… or s3://…
        data: URI of the data root that holds interactions/date=YYYY-MM-DD.
        run_date: Logical date, the first day not used; empty or an unexpanded schedule placeholder means today (UTC).
    """
    common = {"application": application, "workspace": workspace}
    validated = step(validate_data, "Validate data", **common, data=data, run_date=run_date, purpose="train")
    dated = {**common, "run_date": validated["run_date"]}
    tasks = {
        split: step(group_tasks, f"Group {split} tasks", **dated, validated=validated["validated"], split=split)[
            "Output"
        ]
        for split in ("train", "validation", "test")
    }
    model = step(train_theta, "Train θ", **dated, train=tasks["train"], validation=tasks["validation"])["Output"]
    embeddings = step(
        generate_embeddings, "Generate the challenger's embeddings", **common, tasks=tasks["test"], model=model
    )["Output"]
    decision = step(
        gate_theta,
        "Gate the pair",
        **dated,
        data=data,
        model=model,
        embeddings=embeddings,
        validation=tasks["validation"],
        test=tasks["test"],
    )["Output"]
    step(push_embeddings, "Publish the release", **common, embeddings=embeddings, decision=decision)
