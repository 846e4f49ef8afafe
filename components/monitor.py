"""Watch what is served: staleness, coverage, versions, drift."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def monitor(
    application: str,
    workspace: str,
    run_date: str,
    manifest: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    embeddings: str = "",
    release: str = "",
    run_id: str = "",
) -> str:
    """Look at what is served, and whether the world still looks as it did in training. An alarm does not fail the step.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Logical date of the run; empty or an unexpanded schedule placeholder means today (UTC).
        embeddings: URI of the day's embeddings; empty: those of the current release, with ages measured now.
        release: Name of the release the day's run has published; empty: the current one.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        URI of the monitoring result.
    """
    import logging
    from datetime import UTC, datetime

    from components.support import Step, log_figures, save_page
    from limaml import windows
    from limaml.manifest import find_manifest, read_manifest
    from limaml.online.release import current
    from limaml.online.store import open_store
    from monitoring.monitor import monitor as watch

    with Step("monitor", run_id) as step:
        app, place = step.open(application, workspace)
        as_of = step.take(
            windows.resolve_run_date(run_date, app.windows.utc_offset_hours), "" if release else "monitor"
        )
        url = place.store_url(app)
        store = open_store(url, app.name)
        releases = {each.name: each for each in store.releases()}
        served = releases[release] if release else current(url, app)
        made = embeddings or place.embeddings(served.model_version, served.as_of)
        details = read_manifest(made, "embeddings").details
        before = next((each for each in releases.values() if each.number == served.previous), None)
        previous = place.embeddings(before.model_version, before.as_of) if before else None
        output = place.monitoring(as_of if release else None)
        monitored = find_manifest(output)
        if release and served.as_of > as_of and monitored is not None:
            # A rerun of an earlier day: a later release serves already, and says nothing about this day.
            logging.getLogger("components.monitor").info("monitoring: %s is past, its result stays", as_of)
        else:
            monitored = watch(
                details["tasks_uri"],
                read_manifest(details["model_uri"], "model").details["train"],
                made,
                previous if previous and find_manifest(previous) else None,
                details["model_uri"],
                url,
                output,
                app,
                as_of,
                None if release else datetime.now(UTC),
            )
        step.save(monitored, output, manifest)
        save_page(output, report)
        log_figures(monitored.counts, metrics)
        metrics.log_metric("healthy", float(monitored.details["healthy"]))
    return output
