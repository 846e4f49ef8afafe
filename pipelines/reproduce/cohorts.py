"""An A/B test in a simulated world: train, publish, refresh once, play two weeks of traffic, compare by cohort."""

import logging
from datetime import timedelta

from limaml import storage
from limaml.config import Application
from limaml.windows import Window, refresh_split
from pipelines.reproduce.bench import Bench
from pipelines.reproduce.logs import Log
from pipelines.reproduce.variants import BASE, changed

log = logging.getLogger(__name__)

TEST_DAYS = 14
# The table asks what a release does, not whether it may be one.
ANYTHING_GOES = {
    "minimum_gain_over_vanilla": -1.0,
    "minimum_gain_over_intercept": -1.0,
    "maximum_drop_to_champion": 1.0,
    "maximum_calibration_error": 1.0,
    "minimum_rows": 1,
}

Lifts = dict[tuple[str, str], float]  # (cohort, metric) → relative lift of LiMAML over vanilla


def measure(seed_log: Log, application: Application) -> Lifts:
    """Lifts of CTR and weekly active users, everyone's and by cohort; those that could not be tested are left out."""
    from limaml.cli.experiment import play_test
    from limaml.data.layout import SIGNUPS, VISITS
    from limaml.experiment.analysis import analyze
    from limaml.experiment.play import EXPOSURES

    place = seed_log.place(application)
    _release(seed_log, changed(application, gate=ANYTHING_GOES, training={"seed": seed_log.seed}))
    start = seed_log.as_of
    offset = application.windows.utc_offset_hours
    window = Window(start=start, end=start + timedelta(days=TEST_DAYS), utc_offset_hours=offset)
    traffic = place.traffic(window)
    play_test(application, place, seed_log.data, traffic, window)
    exposures, visits, signups = (storage.join(traffic, name) for name in (EXPOSURES, VISITS, SIGNUPS))
    report = analyze(exposures, visits, signups, place.experiment(window), application, window)
    return {
        (comparison["cohort"], comparison["metric"]): comparison["lift"]
        for comparison in report.details["comparisons"]
        if comparison["lift"] is not None
    }


def _release(seed_log: Log, application: Application) -> None:
    """Publish the trained pair, then the embeddings of the test's first morning."""
    from limaml.online.embeddings import generate_embeddings
    from limaml.online.release import publish
    from limaml.training.gate import judge

    bench, place = Bench(seed_log, application), seed_log.place(application)
    model, test = bench.trained(BASE, application), bench.splits["test"]
    store, decision = place.store_url(application), place.decision(model["model_version"])
    validation = bench.tasks(bench.splits["validation"])
    files = bench.embeddings(model, test, application)
    tracking, as_of = seed_log.tracking, seed_log.as_of
    judge(model["uri"], files.uri, validation, bench.tasks(test), decision, application, tracking, as_of)
    publish(files.uri, store, application, decision)
    recent = bench.tasks(refresh_split(application.windows, as_of))
    newest = place.embeddings(model["model_version"], as_of)
    generate_embeddings(model["uri"], recent, newest, application, as_of)
    publish(newest, store, application)
