"""The report of an A/B test."""

from kfp import dsl

from components.analyze_ab import analyze_ab
from pipelines.naming import step


@dsl.pipeline(name="limaml-ab-report", display_name="LiMAML: A/B report by cohort")
def ab_report(
    application: str,
    workspace: str,
    exposures: str,
    visits: str,
    signups: str,
    start: str,
    end: str,
    outcomes: str = "",
    test: str = "",
):
    """Compare the arms of an A/B test: CTR and weekly active users, by cohort, with the split check on top.

    Args:
        application: The application's configuration as one JSON string (`limaml config show --json`).
        workspace: URI below which everything is kept: file://… or s3://…
        exposures: URI of the exposure log that holds date=YYYY-MM-DD.
        visits: URI of the visits that hold date=YYYY-MM-DD; those before the test decide the cohorts.
        signups: URI of the sign-ups.
        start: First logical day of the test.
        end: The day after its last.
        outcomes: URI of what was shown and clicked, for a log of the scorer service; empty where exposures say it.
        test: Name of the application's test; empty for the first.
    """
    step(
        analyze_ab,
        "Analyze the A/B test",
        application=application,
        workspace=workspace,
        exposures=exposures,
        visits=visits,
        signups=signups,
        start=start,
        end=end,
        outcomes=outcomes,
        test=test,
    )
