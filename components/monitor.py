"""Watch a day's release: staleness, coverage, versions, drift."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def monitor(
    application: str,
    workspace: str,
    run_date: str,
    tasks: str,
    embeddings: str,
    release: str,
    manifest: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Look at what is served, and whether the world still looks as it did in training. An alarm does not fail the step.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        tasks: URI of the task set the embeddings were made from.
        embeddings: URI of the day's embeddings.
        release: Name of the release that was published.

    Returns:
        URI of the monitoring result.
    """
    import logging
    from datetime import date

    from components.support import Step, log_figures, save, save_page
    from limaml.config import application_from_parameter
    from limaml.manifest import find_manifest, read_manifest
    from limaml.online.store import open_store
    from limaml.workspace import Workspace
    from monitoring.monitor import monitor as watch

    with Step():
        app = application_from_parameter(application)
        place = Workspace(workspace, app.name)
        as_of = date.fromisoformat(run_date)
        output = place.monitoring(as_of)
        store = open_store(place.store_url(app), app.name)
        releases = {each.name: each for each in store.releases()}
        served = releases[release]
        monitored = find_manifest(output)
        if served.as_of > as_of and monitored is not None:
            # A rerun of an earlier day: a later release serves already, and says nothing about this day.
            logging.getLogger("components.monitor").info("monitoring: %s is past, its result stays", as_of)
        else:
            before = next((each for each in releases.values() if each.number == served.previous), None)
            previous = place.embeddings(before.model_version, before.as_of) if before else None
            model = read_manifest(embeddings, "embeddings").details["model_uri"]
            monitored = watch(
                tasks,
                read_manifest(model, "model").details["train"],
                embeddings,
                previous if previous and find_manifest(previous) else None,
                model,
                place.store_url(app),
                output,
                app,
                as_of,
            )
        save(monitored, output, manifest)
        save_page(output, report)
        log_figures(monitored.counts, metrics)
        metrics.log_metric("healthy", float(monitored.details["healthy"]))
    return output
