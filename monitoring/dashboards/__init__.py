"""Grafana dashboards: `build.py` makes the JSON beside it, which the chart ships."""
