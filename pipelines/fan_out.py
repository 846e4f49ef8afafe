"""Steps that several pods share: planned by one, done by `cluster.fan_out` of them, put together by the last.

Kubeflow loops over the list that a step returns. What an item does not say must be a parameter of the pipeline: its
local runner (2.17) gives the item for every other step's output that the loop uses, without a word. Nor does it take a
loop inside another: where there is one already, a step does its work alone.
"""

from typing import Any

from kfp import dsl

from components.generate_embeddings import generate_embeddings
from components.generate_part import generate_part
from components.plan_embeddings import plan_embeddings
from components.plan_push import plan_push
from components.push_embeddings import push_embeddings
from components.push_part import push_part
from limaml.store_urls import store_scheme
from pipelines.setup import Setup


def add_generation(setup: Setup, title: str, dated: dict[str, Any], alone: bool = False, **inputs: Any) -> Any:
    """Add the generation of embeddings to the pipeline being defined; gives their URI."""
    parts: dict[str, Any] = {}
    pods = setup.application.cluster.fan_out
    if pods > 1 and not alone:
        plan = setup.add(plan_embeddings, "", **dated, **inputs)["Output"]
        with dsl.ParallelFor(plan, parallelism=pods) as part:
            made = setup.add(generate_part, f"{title}: a part", **_without_date(dated), part=part)["Output"]
        parts = {"parts": dsl.Collected(made)}
    return setup.add(generate_embeddings, title, **dated, **inputs, **parts)["Output"]


def add_push(setup: Setup, dated: dict[str, Any], alone: bool = False, **inputs: Any) -> Any:
    """Add the publishing of embeddings to the pipeline being defined; gives the release's name."""
    parts: dict[str, Any] = {}
    pods, url = setup.application.cluster.fan_out, setup.application.store.url
    # LMDB, the store where none is named, takes one writer.
    if pods > 1 and not alone and url and store_scheme(url) != "lmdb":
        plan = setup.add(plan_push, "", **dated, **inputs)["Output"]
        with dsl.ParallelFor(plan, parallelism=pods) as part:
            written = setup.add(push_part, "Write a part of the release", **_without_date(dated), part=part)["Output"]
        parts = {"parts": dsl.Collected(written)}
    return setup.add(push_embeddings, "Publish the release", **dated, **inputs, **parts)["Output"]


def _without_date(dated: dict[str, Any]) -> dict[str, Any]:
    """What every step is told that is a parameter of the pipeline."""
    return {name: value for name, value in dated.items() if name != "run_date"}
