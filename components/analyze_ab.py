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
    run_id: str = "",
) -> str:
    """Check the split, then compare the arms' CTR and weekly active users in every cohort.

    Args:
        application: The application's configuration as one JSON string, or a shipped application's name.
        workspace: URI below which everything is kept.
        exposures: URI of the exposure log, by date=YYYY-MM-DD
        visits: URI of the visits, by date=YYYY-MM-DD; those before the test decide the cohorts.
        signups: URI of the sign-ups.
        start: First logical day of the test.
        end: The day after its last.
        outcomes: URI of what was shown and clicked, for a log of the scorer service; empty where exposures say it.
        test: Name of the application's test; empty for the first.
        run_id: Kubeflow's id of the run, under which it holds its date; empty outside a run.

    Returns:
        URI of the report.
    """
    from components.support import Step, log_figures, save_page
    from limaml.experiment.analysis import analyze
    from limaml.windows import parse_window

    with Step("analyze_ab", run_id) as step:
        app, place = step.open(application, workspace)
        window = parse_window(start, end, app.windows.utc_offset_hours)
        step.take(window.end, "ab_report")
        output = place.experiment(window, test)
        analyzed = analyze(exposures, visits, signups, output, app, window, outcomes, test)
        step.save(analyzed, output, manifest)
        save_page(output, report)
        log_figures(analyzed.counts, metrics)
    return output
