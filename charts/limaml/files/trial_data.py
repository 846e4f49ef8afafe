"""Simulated interactions for applications that have no data yet: MEMBERS DAYS_BEFORE DAYS_AFTER FILE…

The log begins DAYS_BEFORE days before today, so that a training can start at once, and goes on for DAYS_AFTER days, so
that the daily runs of the first weeks have something to read.
"""

import sys
from datetime import UTC, datetime, timedelta

from limaml.config import load_application
from limaml.console import configure_logging
from limaml.data.layout import days_of
from limaml.data.simulator import simulate
from limaml.data.world import SimulationSpec
from limaml.workspace import Workspace

members, before, after = (int(number) for number in sys.argv[1:4])
start = datetime.now(UTC).date() - timedelta(days=before)
configure_logging()
for file in sys.argv[4:]:
    application = load_application(file)
    cluster = application.cluster
    data = cluster.data or Workspace(cluster.workspace, application.name).data
    if days := days_of(data):
        print(f"{application.name}: {data} holds {len(days)} days already, from {days[0]} to {days[-1]}")
        continue
    manifest = simulate(data, application, SimulationSpec(members=members, days=before + after, start=start))
    print(f"{application.name}: {manifest.counts['rows']} interactions from {start} on in {data}")
