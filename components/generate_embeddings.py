"""Generate meta embeddings (Alg. 2b)."""

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
    run_id: str = "",
) -> str:
    """Adapt θ_meta to each task's recent samples and keep the adapted block's output as its embedding.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        tasks: URI of a task set with a support/query boundary; its support rows are used.
        model: URI of the model; empty means the champion, the model the current release names.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        URI of the embeddings.
    """
    from datetime import date

    from components.support import Step, log_figures
    from limaml.errors import DataError
    from limaml.manifest import read_manifest
    from limaml.online.embeddings import generate_embeddings as generate
    from limaml.online.previous import embeddings_of
    from limaml.online.release import current
    from limaml.windows import TaskSplit

    with Step("generate_embeddings", run_id) as step:
        app, place = step.open(application, workspace)
        step.take(date.fromisoformat(run_date))
        previous = ""
        if not model:
            serving = current(place.store_url(app), app)
            model = serving.model_uri
            previous = embeddings_of(serving, place) if app.embeddings.refresh == "delta" else ""
        version = read_manifest(model, "model").details["model_version"]
        as_of = TaskSplit.model_validate(read_manifest(tasks, "task_set").details["split"]).boundary
        if as_of is None:
            raise DataError(f"{tasks}: its split has no boundary, so it is no set to generate embeddings from")
        output = place.embeddings(version, as_of)
        embeddings = generate(model, tasks, output, app, as_of, previous)
        step.save(embeddings, output, manifest)
        log_figures(embeddings.counts, metrics)
        log_figures({name: embeddings.details[name] for name in ("changed", "removed")}, metrics)
    return output
