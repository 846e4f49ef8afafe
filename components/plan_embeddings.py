"""Divide the generation of embeddings between pods."""

from typing import List

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def plan_embeddings(
    application: str, workspace: str, run_date: str, tasks: str, model: str = "", run_id: str = ""
) -> List[str]:
    """Choose the model, and divide the task set's shards into as many ranges as `cluster.fan_out` says.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        tasks: URI of a task set with a support/query boundary.
        model: URI of the model; empty means the champion, the model the current release names.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        One range each as a JSON string: all that `generate_part` needs to know.
    """
    import json
    from datetime import date

    from components.support import Step
    from limaml.online.embedding_parts import divide
    from limaml.online.embeddings import plan_embeddings as plan
    from limaml.online.refresh import due

    with Step("plan_embeddings", run_id) as step:
        app, place = step.open(application, workspace)
        step.take(date.fromisoformat(run_date))
        wanted = due(app, place, tasks, model)
        whole = plan(wanted.model, tasks, wanted.output, app, wanted.as_of, wanted.previous, verify=False)
        # Where it does not fit, no part may carry anything over.
        previous = wanted.previous if whole.earlier() else ""
        fan_out = 1 if whole.stage.finished() else app.cluster.fan_out
        ranges = divide(tasks, app.definition_names, fan_out)
        common = {"run_date": run_date, "tasks": tasks, "model": wanted.model, "previous": previous}
    return [json.dumps({"number": number, "shards": shards, **common}) for number, shards in enumerate(ranges)]
