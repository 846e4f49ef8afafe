"""Analyze an A/B test by cohort."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
def analyze_ab(
    application: str,
    workspace: str,
    exposures: str,
    visits: str,
    signups: str,
    start: str,
    end: str,
    manifest: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    outcomes: str = "",
    test: str = "",
) -> str:
    """Check the split, then compare the arms' CTR and weekly active users in every cohort.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        exposures: URI of the exposure log, by date=…
        visits: URI of the visits, by date=…; those before the test decide the cohorts.
        signups: URI of the sign-ups.
        start: First logical day of the test.
        end: The day after its last.
        outcomes: URI of what was shown and clicked, for a log of the scorer service; empty where exposures say it.
        test: Name of the application's test; empty for the first.

    Returns:
        URI of the report.
    """
    from datetime import date

    from components.support import Step, log_figures, save, save_page
    from limaml.config import application_from_parameter
    from limaml.experiment.analysis import analyze
    from limaml.windows import Window
    from limaml.workspace import Workspace

    with Step():
        app = application_from_parameter(application)
        window = Window(
            start=date.fromisoformat(start),
            end=date.fromisoformat(end),
            utc_offset_hours=app.windows.utc_offset_hours,
        )
        output = Workspace(workspace, app.name).experiment(window, test)
        analyzed = analyze(exposures, visits, signups, output, app, window, outcomes, test)
        save(analyzed, output, manifest)
        save_page(output, report)
        log_figures(analyzed.counts, metrics)
    return output
