"""Publish embeddings and their model as one release."""

from typing import List, Optional

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def push_embeddings(
    application: str,
    workspace: str,
    run_date: str,
    embeddings: str,
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    decision: str = "",
    parts: Optional[List[str]] = None,
    run_id: str = "",
) -> str:
    """Write a generation to the online store, verify it, and make the pair (model, generation) the current release.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        embeddings: URI of the embeddings.
        decision: URI of the gate's decision on the pair; empty for a daily refresh of the current release's model.
        parts: What `push_part` returned for each part, where other pods write; empty: all is written here.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        Name of the release.
    """
    from datetime import date

    from components.support import Step, log_figures, write_table
    from limaml.manifest import read_manifest
    from limaml.online.release import publish

    with Step("push_embeddings", run_id) as step:
        app, place = step.open(application, workspace)
        step.take(date.fromisoformat(run_date))
        release = publish(embeddings, place.store_url(app), app, decision or None, together=bool(parts))
        published = read_manifest(embeddings, "embeddings")
        said = {"name": release.name, **release.model_dump(mode="json")}
        step.save(published, embeddings, manifest, release=said)
        manifest.metadata["release"] = release.name
        log_figures({**published.counts, "verified": release.verified}, metrics)
        facts = {
            "model": release.model_version,
            "generation": release.generation,
            "as of": release.as_of,
            "newest event": release.newest_event_time,
            "published": release.published_at,
            "tasks served": f"{release.tasks:,}",
            "tasks without recent rows": f"{published.counts['tasks_without_support']:,}",
            "computed anew": f"{published.details['changed']:,}",
            "removed": f"{published.details['removed']:,}",
            **{f"verified: {name.replace('_', ' ')}": value for name, value in release.verified.items()},
        }
        write_table(f"Release {release.name}", facts, summary)
    return release.name
