"""The periodic training pipeline: from interactions to a published release, when the gate promotes it."""

from typing import Any

from kfp import dsl

from components.gate_theta import gate_theta
from components.group_tasks import group_tasks
from components.train_theta import train_theta
from components.validate_data import validate_data
from pipelines.fan_out import add_generation, add_push
from pipelines.setup import Setup


def train(setup: Setup) -> Any:
    """The training of an application."""

    @dsl.pipeline(name="limaml-train", display_name="LiMAML: train theta, gate and publish")
    def train(
        application: str = setup.text,
        workspace: str = setup.workspace,
        data: str = setup.data,
        run_date: str = "",
        image: str = setup.image,
    ):
        """Train theta, judge it together with the embeddings it generates, and publish the pair when it is promoted.

        Args:
            application: The application: its configuration as one JSON string (`limaml config show --json`) or the name of a shipped one.
            workspace: URI below which everything is kept: s3://... or file://...
            data: URI of the data root that holds interactions/date=YYYY-MM-DD; empty: <workspace>/<application>/data.
            run_date: Logical date, the first day not used; empty or an unexpanded schedule placeholder means today (UTC).
            image: Container image of every step.
        """
        with setup.run("train", "Train", image, application, workspace) as common:
            validated = setup.add(
                validate_data, "Validate data", **common, data=data, run_date=run_date, purpose="train"
            )
            dated = {**common, "run_date": validated["run_date"]}
            tasks = {
                split: setup.add(
                    group_tasks, f"Group {split} tasks", **dated, validated=validated["validated"], split=split
                )["Output"]
                for split in ("train", "validation", "test")
            }
            model = setup.add(
                train_theta, "Train theta", **dated, train=tasks["train"], validation=tasks["validation"]
            )["Output"]
            embeddings = add_generation(
                setup, "Generate the challenger's embeddings", dated, tasks=tasks["test"], model=model
            )
            decision = setup.add(
                gate_theta,
                "Gate the pair",
                **dated,
                data=data,
                model=model,
                embeddings=embeddings,
                validation=tasks["validation"],
                test=tasks["test"],
            )["Output"]
            add_push(setup, dated, embeddings=embeddings, decision=decision)

    return train
