"""Judge a challenger: the pair of model and generated embeddings."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def gate_theta(
    application: str,
    workspace: str,
    data: str,
    run_date: str,
    model: str,
    embeddings: str,
    validation: str,
    test: str,
    manifest: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
) -> str:
    """Score the test split with the pair, its baselines and the champion; promote or refuse.

    A refusal is written down first and then fails the step, so that nothing downstream publishes the pair.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        data: URI of the data root, empty: the application's own in the workspace; its visits, sign-ups and (of a
            simulation) truth are used where they exist.
        run_date: Resolved logical date of the run.
        model: URI of the model.
        embeddings: URI of the embeddings generated on the test split's support rows.
        validation: URI of the validation task set, on which the controls are tuned.
        test: URI of the test task set.

    Returns:
        URI of the decision.
    """
    from datetime import date

    from components.support import Step, log_figures, save, save_page
    from limaml.config import application_from_parameter
    from limaml.errors import GateRefused
    from limaml.manifest import read_manifest
    from limaml.training.gate import judge
    from limaml.workspace import Workspace

    with Step():
        app = application_from_parameter(application)
        place = Workspace(workspace, app.name)
        version = read_manifest(model, "model").details["model_version"]
        output = place.decision(version)
        # A refusal is an answer: its figures and its page are what a person looks for in a red run.
        decision = judge(
            model,
            embeddings,
            validation,
            test,
            output,
            app,
            place.tracking_uri(),
            date.fromisoformat(run_date),
            data or place.data,
            raise_on_refusal=False,
        )
        save(decision, output, manifest)
        save_page(output, report)
        details = decision.details
        for row in details["table"]:
            shown = {name: row[name] for name in ("auc", "gauc", "log_loss", "calibration") if row[name] is not None}
            log_figures({f"{row['slice']}.{row['algorithm']}": shown}, metrics)
        curve = details["roc"]["limaml"]
        roc.log_roc_curve(curve["fpr"], curve["tpr"], curve["threshold"])
        if not details["promoted"]:
            raise GateRefused(f"model {version} stays a challenger: {'; '.join(details['reasons'])}; see {output}")
    return output
