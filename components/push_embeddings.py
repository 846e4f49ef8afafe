"""Publish embeddings and their model as one release."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def push_embeddings(
    application: str,
    workspace: str,
    embeddings: str,
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    decision: str = "",
) -> str:
    """Write a generation to the online store, verify it, and make the pair (model, generation) the current release.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        embeddings: URI of the embeddings.
        decision: URI of the gate's decision on the pair; empty for a daily refresh of the current release's model.

    Returns:
        Name of the release.
    """
    from components.support import Step, log_figures, save
    from limaml.config import application_from_parameter
    from limaml.manifest import read_manifest
    from limaml.online.release import publish
    from limaml.workspace import Workspace

    with Step():
        app = application_from_parameter(application)
        release = publish(embeddings, Workspace(workspace, app.name).store_url(app), app, decision=decision or None)
        published = read_manifest(embeddings, "embeddings")
        save(published, embeddings, manifest)
        manifest.metadata["release"] = release.name
        log_figures({**published.counts, "verified": release.verified}, metrics)
    return release.name
