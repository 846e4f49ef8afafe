"""`python -m monitoring.dashboards.build`: the dashboards' JSON, from panels that name a metric and what it means."""

from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableOption, VariableRefresh

HERE = Path(__file__).resolve().parent
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
# What the variables choose; every query is limited to it.
CHOSEN = 'namespace=~"$namespace", application=~"$application"'


def query(expression: str, legend: str = "{{application}}") -> prometheus.Dataquery:
    """A Prometheus query over the chosen applications: CHOSEN stands for the selector."""
    return prometheus.Dataquery().expr(expression.replace("CHOSEN", CHOSEN)).legend_format(legend)


def panel(title: str, what: str, unit: str, *queries: prometheus.Dataquery) -> timeseries.Panel:
    """Lines over time, a third of the page wide."""
    made = timeseries.Panel().title(title).description(what).unit(unit).min(0).height(8).span(8).datasource(SOURCE)
    for letter, each in zip(ascii_uppercase, queries, strict=False):
        made = made.with_target(each.ref_id(letter))
    return made


def page(uid: str, title: str, what: str, panels: list[timeseries.Panel]) -> dashboard.Dashboard:
    """A dashboard whose variables choose the data source, namespaces and applications."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(what)
        .tags(["limaml"])
        .timezone("utc")
        .time("now-6h", "now")
        .refresh("1m")
        .with_variable(dashboard.DatasourceVariable("source").label("Source").type("prometheus"))
    )
    for name in ("namespace", "application"):
        chooser = dashboard.QueryVariable(name).label(name.capitalize()).datasource(SOURCE)
        chooser = chooser.query(f"label_values(limaml_ready, {name})").refresh(VariableRefresh.ON_DASHBOARD_LOAD)
        chooser = chooser.multi(True).include_all(True).current(VariableOption(text="All", value="$__all"))
        made = made.with_variable(chooser)
    for each in panels:
        made = made.with_panel(each)
    return made


def scoring() -> dashboard.Dashboard:
    """Requests, their answers and what those rest on."""
    by = "sum by (application)"
    answered = 'status="200", CHOSEN'
    return page(
        "limaml-scoring",
        "LiMAML: scoring",
        "What callers of the scorers see.",
        [
            panel("Requests", "Requests a second", "reqps", query(f"{by} (rate(limaml_requests_total{{CHOSEN}}[5m]))")),
            panel(
                "Statuses other than 200",
                "429: too many at once; 4xx: the caller; 503: no release; 500: ours",
                "reqps",
                query(
                    'sum by (application, status) (rate(limaml_requests_total{status!="200", CHOSEN}[5m]))',
                    "{{application}} {{status}}",
                ),
            ),
            panel(
                "Time of a request",
                "Median and 99th percentile, from its head to its answer",
                "s",
                *(
                    query(
                        f"histogram_quantile({share}, sum by (application, le) "
                        "(rate(limaml_request_seconds_bucket{CHOSEN}[5m])))",
                        f"{{{{application}}}} {name}",
                    )
                    for share, name in (("0.5", "median"), ("0.99", "p99"))
                ),
            ),
            panel(
                "What scores rest on",
                "Share of candidates by reason code: watch default and stale",
                "percentunit",
                query(
                    "sum by (application, reason) (rate(limaml_candidates_total{CHOSEN}[5m])) "
                    f"/ on (application) group_left {by} (rate(limaml_candidates_total{{CHOSEN}}[5m]))",
                    "{{application}} {{reason}}",
                ),
            ),
            panel(
                "Answers without the store",
                "Share of answers for which no embedding could be read",
                "percentunit",
                query(
                    f"{by} (rate(limaml_degraded_answers_total{{CHOSEN}}[5m])) "
                    f"/ {by} (rate(limaml_requests_total{{{answered}}}[5m]))"
                ),
                query("max by (application) (limaml_store_breaker_open{CHOSEN})", "{{application}} breaker open"),
            ),
            panel(
                "Requests under way",
                "At once, of all pods; each worker refuses more than serve.maximum_in_flight",
                "short",
                query(f"{by} (limaml_in_flight_requests{{CHOSEN}})"),
            ),
        ],
    )


def releases() -> dashboard.Dashboard:
    """What is served, how old it is, and what A/B tests record."""
    return page(
        "limaml-releases",
        "LiMAML: releases",
        "What the scorers serve, and how fresh it is.",
        [
            panel(
                "Release",
                "Lowest and highest number among pods; they differ for seconds after a publish",
                "none",
                query("min by (application) (limaml_release_number{CHOSEN} > 0)", "{{application}} lowest"),
                query("max by (application) (limaml_release_number{CHOSEN})", "{{application}} highest"),
            ),
            panel(
                "Age of the release",
                "Since the cutoff of the events its embeddings have seen",
                "s",
                query("max by (application) (limaml_release_age_seconds{CHOSEN})"),
            ),
            panel(
                "Changes of release",
                "In the last hour, by how they ended",
                "short",
                query(
                    "sum by (application, result) (increase(limaml_swaps_total{CHOSEN}[1h]))",
                    "{{application}} {{result}}",
                ),
            ),
            panel(
                "Pods that serve",
                "Pods with a release, of all",
                "short",
                query("sum by (application) (limaml_ready{CHOSEN})", "{{application}} serving"),
                query("count by (application) (limaml_ready{CHOSEN})", "{{application}} all"),
            ),
            panel(
                "Exposures",
                "Rows a second of the log that the A/B report reads, by what became of them",
                "rowsps",
                query(
                    "sum by (application, outcome) (rate(limaml_exposures_total{CHOSEN}[5m]))",
                    "{{application}} {{outcome}}",
                ),
            ),
        ],
    )


def outputs() -> dict[Path, str]:
    """Every dashboard's file, as it should be."""
    made = {"scoring": scoring(), "releases": releases()}
    return {
        HERE / f"{name}.json": JSONEncoder(sort_keys=True, indent=1).encode(each.build()) + "\n"
        for name, each in made.items()
    }


if __name__ == "__main__":
    for path, content in outputs().items():
        path.write_text(content)
