"""Write one pod's part of a generation."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def push_part(application: str, workspace: str, part: str, run_id: str = "") -> str:
    """Write every n-th chunk of a generation; what is there already is left as it is.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        part: One of the parts that `plan_push` returned.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        How many rows the part has.
    """
    import json
    from datetime import date

    from components.support import Step
    from limaml.manifest import read_manifest
    from limaml.online.push import cutoff_of
    from limaml.online.push import push_part as write
    from limaml.online.store import Generation, open_store

    mine = json.loads(part)
    rows = 0
    with Step("push_part_" + str(mine["number"]), run_id) as step:
        app, place = step.open(application, workspace)
        step.take(date.fromisoformat(mine["run_date"]))
        if mine["plan"]:
            plan = Generation.model_validate_json(mine["plan"])
            store, manifest = (
                open_store(place.store_url(app), app.name),
                read_manifest(mine["embeddings"], "embeddings"),
            )
            rows = write(store, plan, mine["embeddings"], manifest, cutoff_of(plan, app), mine["number"], mine["of"])
    return str(rows)
