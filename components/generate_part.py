"""Generate one pod's part of the embeddings."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def generate_part(application: str, workspace: str, part: str, run_id: str = "") -> str:
    """Generate the embeddings of a range of shards, into a place of their own.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        part: One of the ranges that `plan_embeddings` returned.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        Where the part lies and what it was made with, as a JSON string.
    """
    import json
    from datetime import date

    from components.support import Step
    from limaml.online.embedding_parts import generate_part as generate
    from limaml.online.embeddings import plan_embeddings
    from limaml.online.refresh import due

    mine = json.loads(part)
    with Step("generate_part_" + str(mine["number"]), run_id) as step:
        app, place = step.open(application, workspace)
        step.take(date.fromisoformat(mine["run_date"]))
        wanted = due(app, place, mine["tasks"], mine["model"], mine["previous"])
        plan = plan_embeddings(
            wanted.model, mine["tasks"], wanted.output, app, wanted.as_of, wanted.previous, verify=False
        )
        uri = generate(plan, mine["shards"])
    return json.dumps({"uri": uri, "model": wanted.model, "previous": wanted.previous})
