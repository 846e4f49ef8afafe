"""Where everything of one application lies below its workspace URI: the only place that knows these paths."""

import os
from dataclasses import dataclass
from datetime import date

from limaml import storage
from limaml.config import Application
from limaml.errors import ConfigError
from limaml.windows import TaskSplit, Window


@dataclass(frozen=True)
class Workspace:
    """Paths of an application. `root` is the workspace URI as the user gave it."""

    root: str
    application: str

    def _path(self, *parts: str) -> str:
        return storage.join(self.root, self.application, *parts)

    @property
    def data(self) -> str:
        """Interactions, visits and sign-ups made by `limaml import` or `limaml simulate`."""
        return self._path("data")

    def validated(self, window: Window) -> str:
        """Result of validating a window."""
        return self._path("validated", window.name)

    def tasks(self, split: TaskSplit) -> str:
        """A task set. The boundary is in the path, since two runs may group one window differently."""
        boundary = f"_{split.boundary}" if split.boundary else ""
        return self._path("tasks", split.name, split.window.name + boundary)

    def model(self, version: str) -> str:
        """A trained model."""
        return self._path("model", version)

    def embeddings(self, model_version: str, as_of: date) -> str:
        """A generation's embeddings as files."""
        return self._path("embeddings", model_version, as_of.isoformat())

    def decision(self, model_version: str) -> str:
        """The gate's decision on a model."""
        return self._path("decision", model_version)

    def monitoring(self, as_of: date | None = None) -> str:
        """Drift and staleness of a day's release; without a day, of what was served when it was last looked at."""
        return self._path("monitoring", as_of.isoformat() if as_of else "now")

    def traffic(self, window: Window) -> str:
        """Exposures, visits and sign-ups of a played A/B test."""
        return self._path("traffic", window.name)

    def experiment(self, window: Window, test: str = "") -> str:
        """An A/B test's report; of the application's first test unless another one is named."""
        return self._path("experiment", window.name + (f"_{test}" if test else ""))

    @property
    def runs(self) -> str:
        """How runs ended."""
        return self._path("runs")

    def run(self, as_of: date, kind: str) -> str:
        """How the last run of a kind for a date ended, and what it says."""
        return self._path("runs", f"{as_of.isoformat()}_{kind}")

    def turned_away(self, run_id: str) -> str:
        """How a run ended that never held its date: another one did, or the date was no date."""
        return self._path("runs", "turned_away", run_id)

    def journal(self, run_id: str) -> str:
        """What the steps of a run say of themselves while it goes on."""
        return self._path("runs", "journal", run_id)

    def lease(self, as_of: date, what: str = "") -> str:
        """The lock file of a logical date; work that publishes nothing has locks of its own, named by `what`."""
        return self._path("leases", f"{as_of.isoformat()}{f'_{what}' if what else ''}.json")

    def store_url(self, application: Application) -> str:
        """The online store: as configured, or an LMDB store inside a local workspace.

        Raises:
            ConfigError: nothing is configured and the workspace is not local.
        """
        if application.store.url:
            return application.store.url
        if not storage.is_local(self.root):
            raise ConfigError(f"store.url: required, since the workspace {self.root} is not a local directory")
        return "lmdb://" + str(storage.local_path(self._path("store")))

    def tracking_uri(self) -> str:
        """MLflow: `MLFLOW_TRACKING_URI` where set, else an sqlite file inside a local workspace.

        Raises:
            ConfigError: the variable is not set and the workspace is not local.
        """
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            return uri
        if not storage.is_local(self.root):
            raise ConfigError(f"MLFLOW_TRACKING_URI must be set, since the workspace {self.root} is not local")
        directory = storage.local_path(self._path())
        directory.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{directory}/mlflow.db"
