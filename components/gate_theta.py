"""Judge a challenger: the pair of model and generated embeddings."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def gate_theta(
    application: str,
    workspace: str,
    data: str,
    model: str,
    embeddings: str,
    test: str,
    manifest: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
) -> str:
    """Score the test split with the pair, its baselines and the champion; promote or refuse.

    A refusal is written down first and then fails the step, so that nothing downstream publishes the pair.

    Args:
        application: The application's configuration as one JSON string.
        workspace: URI below which everything is kept.
        data: URI of the data root; a simulation's true probabilities there give the best possible AUC.
        model: URI of the model.
        embeddings: URI of the embeddings generated on the test split's support rows.
        test: URI of the test task set.

    Returns:
        URI of the decision.
    """
    from components.support import Step, log_figures, log_roc, save, save_page
    from limaml import storage
    from limaml.config import application_from_json
    from limaml.errors import GateRefused
    from limaml.manifest import read_manifest
    from limaml.training.gate import judge
    from limaml.workspace import Workspace

    with Step():
        app = application_from_json(application)
        place = Workspace(workspace, app.name)
        output = place.decision(read_manifest(model, "model").details["model_version"])
        truth = data if storage.exists(storage.join(data, "truth")) else None
        decision = judge(
            model, embeddings, test, output, app, place.tracking_uri(), truth=truth, raise_on_refusal=False
        )
        save(decision, output, manifest)
        save_page(decision, output, report)
        log_figures(decision.details, metrics)
        log_roc(decision.details.get("roc"), roc)
        if not decision.details["promoted"]:
            raise GateRefused("; ".join(decision.details["reasons"]))
    return output
