"""Processes of their own without seconds of imports: forked from a server that has imported what all of them need.

The server runs no threads. A test process has one such server, and what it imports is said once, here: a second list
would silently replace this one.
"""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "tests.limaml.online.kills",
        "tests.limaml.training.workers",
        # What libraries import at their first use.
        "matplotlib.figure",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "pandas",
        "pyarrow.compute",
        "pyarrow.pandas_compat",
        "rich._emoji_codes",
        "torch._dynamo",
    ]
)
