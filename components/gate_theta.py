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
    run_id: str = "",
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
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        URI of the decision.
    """
    from datetime import date

    from components.support import Step, log_figures, save_page
    from limaml.errors import GateRefused
    from limaml.manifest import read_manifest
    from limaml.training.gate import judge

    with Step("gate_theta", run_id) as step:
        app, place = step.open(application, workspace)
        as_of = step.take(date.fromisoformat(run_date))
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
            as_of,
            data or place.data,
            raise_on_refusal=False,
        )
        step.save(decision, output, manifest)
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
