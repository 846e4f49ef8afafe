"""The report of an A/B test."""

from typing import Any

from kfp import dsl

from components.analyze_ab import analyze_ab
from pipelines.setup import Setup


def ab_report(setup: Setup) -> Any:
    """The A/B report of an application."""

    @dsl.pipeline(name="limaml-ab-report", display_name="LiMAML: A/B report by cohort")
    def ab_report(
        exposures: str,
        visits: str,
        signups: str,
        start: str,
        end: str,
        application: str = setup.text,
        workspace: str = setup.workspace,
        outcomes: str = "",
        test: str = "",
        image: str = setup.image,
    ):
        """Compare the arms of an A/B test: CTR and weekly active users, by cohort, with the split check on top.

        Args:
            exposures: URI of the exposure log that holds date=YYYY-MM-DD.
            visits: URI of the visits that hold date=YYYY-MM-DD; those before the test decide the cohorts.
            signups: URI of the sign-ups.
            start: First logical day of the test.
            end: The day after its last.
            application: The application: its configuration as one JSON string (`limaml config show --json`) or the name of a shipped one.
            workspace: URI below which everything is kept: s3://... or file://...
            outcomes: URI of what was shown and clicked, for a log of the scorer service; empty where exposures say it.
            test: Name of the application's test; empty for the first.
            image: Container image of every step.
        """
        with setup.run("ab_report", "Report", image, application, workspace) as common:
            setup.add(
                analyze_ab,
                "Analyze the A/B test",
                **common,
                exposures=exposures,
                visits=visits,
                signups=signups,
                start=start,
                end=end,
                outcomes=outcomes,
                test=test,
            )

    return ab_report
