"""Train θ (Alg. 2a) and the vanilla baseline on the same batches."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def train_theta(
    application: str,
    workspace: str,
    run_date: str,
    train: str,
    validation: str,
    manifest: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    run_id: str = "",
) -> str:
    """Train theta_meta, theta_global and the vanilla baseline on a train split; choose theta on a validation split.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        run_date: Resolved logical date of the run.
        train: URI of the train task set.
        validation: URI of the validation task set.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        URI of the model.
    """
    from datetime import date

    from components.launch.training import is_elsewhere, train_elsewhere
    from components.support import Step, log_figures, save_page
    from limaml.training.train import train_model

    with Step("train_theta", run_id) as step:
        app, place = step.open(application, workspace)
        as_of = step.take(date.fromisoformat(run_date))
        if is_elsewhere(app):
            model = train_elsewhere(app, place.root, as_of, train, validation)
        else:
            model = train_model(train, validation, place.model(""), app, place.tracking_uri(), as_of)
        step.save(model, model.details["uri"], manifest)
        save_page(model.details["uri"], report)
        log_figures(model.counts, metrics)
        log_figures({"validation_auc": model.details["validation_auc"]}, metrics)
    return model.details["uri"]
