"""Generate meta embeddings (Alg. 2b)."""

from typing import List, Optional

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def generate_embeddings(
    application: str,
    workspace: str,
    run_date: str,
    tasks: str,
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    model: str = "",
    parts: Optional[List[str]] = None,
    run_id: str = "",
) -> str:
    """Adapt theta_meta to each task's recent samples and keep the adapted block's output as its embedding.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        tasks: URI of a task set with a support/query boundary; its support rows are used.
        model: URI of the model; empty means the champion, the model the current release names.
        parts: What `generate_part` returned for each part, where other pods generate; empty: all is done here.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        URI of the embeddings.
    """
    import json
    from datetime import date

    from components.support import Step, log_figures
    from limaml.online.embedding_parts import join_parts
    from limaml.online.embeddings import generate_embeddings as generate
    from limaml.online.embeddings import plan_embeddings
    from limaml.online.refresh import due

    with Step("generate_embeddings", run_id) as step:
        app, place = step.open(application, workspace)
        step.take(date.fromisoformat(run_date))
        if parts:
            made = [json.loads(part) for part in parts]
            wanted = due(app, place, tasks, made[0]["model"], made[0]["previous"])
            plan = plan_embeddings(wanted.model, tasks, wanted.output, app, wanted.as_of, wanted.previous, verify=False)
            embeddings = join_parts(plan, [part["uri"] for part in made])
        else:
            wanted = due(app, place, tasks, model)
            embeddings = generate(wanted.model, tasks, wanted.output, app, wanted.as_of, wanted.previous)
        step.save(embeddings, wanted.output, manifest)
        log_figures(embeddings.counts, metrics)
        log_figures({name: embeddings.details[name] for name in ("changed", "removed")}, metrics)
    return wanted.output
