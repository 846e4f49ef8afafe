"""Kubeflow components: one thin file each. A body parses the configuration, calls one stage, copies a few figures.

All of them run on one image that holds the installed project, so the same body runs in a cluster and, through the local
runner, in this interpreter. Bulk data travels by URI; a step's artifact is the manifest of what it wrote.
"""

import os
from importlib.metadata import version

IMAGE = os.environ.get("LIMAML_IMAGE") or f"ghcr.io/limaml/limaml:{version('limaml')}"
