"""Divide the writing of a generation between pods."""

from typing import List

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def plan_push(
    application: str, workspace: str, run_date: str, embeddings: str, decision: str = "", run_id: str = ""
) -> List[str]:
    """Begin the generation that embeddings become, for as many writers as `cluster.fan_out` says.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        embeddings: URI of the embeddings.
        decision: URI of the gate's decision on the pair; empty for a daily refresh of the current release's model.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        One part each as a JSON string, all that `push_part` needs to know; a single part without a generation's plan
        where there is nothing to divide.
    """
    import json
    from datetime import date

    from components.support import Step
    from limaml.online.release import plan_parts

    with Step("plan_push", run_id) as step:
        app, place = step.open(application, workspace)
        step.take(date.fromisoformat(run_date))
        plan = plan_parts(embeddings, place.store_url(app), app, decision or None)
    of = app.cluster.fan_out if plan else 1
    text = plan.model_dump_json() if plan else ""
    common = {"run_date": run_date, "embeddings": embeddings, "of": of, "plan": text}
    return [json.dumps({"number": number, **common}) for number in range(of)]
