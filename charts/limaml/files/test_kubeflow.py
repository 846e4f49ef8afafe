"""`helm test`: Kubeflow Pipelines has every application's pipelines as they are now, and its schedules: FILE…"""

import os
import sys

from limaml.config import load_application
from pipelines.compile import KINDS
from pipelines.kubeflow import Access, connect
from pipelines.schedule import status
from pipelines.uploads import compiled, registered

image = os.environ["LIMAML_IMAGE"]
kubeflow = connect(Access())
wrong = []
for file in sys.argv[1:]:
    application = load_application(file)
    found = {each["kind"]: each["versions"] for each in registered(kubeflow, application.name)}
    for kind in KINDS:
        version = compiled(kind, application, image).version
        there = version in [each["version"] for each in found.get(kind, ())]
        print(f"{application.name}: pipeline {kind}, version {version}: {'registered' if there else 'MISSING'}")
        if not there:
            wrong.append(f"{application.name}: {kind} is not registered as it is now")
    for row in status(kubeflow, application, {}, image):
        print(f"{application.name}: schedule {row['kind']}: {row['state']}, next run {row['next_run']}")
        if row["state"] not in ("in sync", "none"):
            wrong.append(f"{application.name}: schedule {row['kind']} {row['state']}; was it changed by hand?")
if wrong:
    raise SystemExit("; ".join([*wrong, "`helm upgrade` with the same values applies everything again"]))
