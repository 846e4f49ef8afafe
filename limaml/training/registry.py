"""MLflow, in one place: training runs, registered models, and the aliases promotion moves.

Aliases: `challenger` (judged or being judged), `champion` (serves), `previous` (served before). A model version is
decided once; deciding it again changes nothing, so a rerun can never bring an old champion back.

Where Kubeflow has begun an MLflow run for the step (`MLFLOW_RUN_ID` at the same `MLFLOW_TRACKING_URI`), training is
logged into that one, and Kubeflow ends it; else into one of its own, in `MLFLOW_EXPERIMENT_ID` where that is given.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from limaml import storage
from limaml.errors import StorageError

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
_VERSION_TAG = "limaml.model_version"
_URI_TAG = "limaml.uri"
_FINGERPRINT_TAG = "limaml.fingerprint"
_DECISION_TAG = "limaml.decision"
_PIPELINE_TAG = "limaml.pipeline_run"
_SQLITE = "sqlite:///"
# A server refuses sources that are paths, though its readers share a volume: there the scheme says so, the tag where.
_VOLUME = "volume:"
# The pipeline's run this process works for; a component sets it.
PIPELINE_RUN = "LIMAML_RUN_ID"


@dataclass(frozen=True)
class Registered:
    """A registered model version: MLflow's number, ours, where its files lie, its run and what was decided."""

    number: str
    model_version: str
    uri: str
    run_id: str | None
    decision: str


def _told(
    method: Callable[Concatenate["Registry", Arguments], Result],
) -> Callable[Concatenate["Registry", Arguments], Result]:
    """What MLflow, its database or its artifact store report becomes one error that names the place."""

    @wraps(method)
    def told(self: "Registry", *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            return method(self, *arguments, **options)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise StorageError(
                f"MLflow at {self.tracking_uri} failed: {reason}; free space, fix permissions or start the server, "
                "and run again: finished work is kept"
            ) from error

    return told


class Registry:
    """Runs and models of one application. Every method raises StorageError when MLflow can't be read or written."""

    @_told
    def _connect(self) -> None:
        database = self.tracking_uri.removeprefix(_SQLITE)
        location = None
        if database != self.tracking_uri:
            _create_database(Path(database))
            location = f"file://{Path(database).parent}/mlartifacts"
        self.client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        self.experiment_id = self._experiment(location)
        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, location: str | None) -> str:
        """The given run's experiment, the given one, or the application's, made when it is new."""
        if self.given_run:
            return self.client.get_run(self.given_run).info.experiment_id
        if self.given_experiment:
            return self.client.get_experiment(self.given_experiment).experiment_id
        found = self.client.get_experiment_by_name(self.name)
        if found is not None:
            return found.experiment_id
        return self.client.create_experiment(self.name, artifact_location=location)

    def __init__(self, tracking_uri: str, application: str) -> None:
        """Connect, creating the experiment and the registered model if they are new."""
        self.tracking_uri = tracking_uri
        self.name = application
        # What was given belongs to the server it was given with.
        given = os.environ if os.environ.get("MLFLOW_TRACKING_URI") == tracking_uri else {}
        self.given_run = given.get("MLFLOW_RUN_ID", "")
        self.given_experiment = given.get("MLFLOW_EXPERIMENT_ID", "")
        self._connect()

    @_told
    def log_training(
        self,
        fingerprint: str,
        run_name: str,
        params: Mapping[str, Any],
        curves: Mapping[str, list[float]],
        texts: Mapping[str, str],
        figures: Mapping[str, Any],
    ) -> None:
        """Log a finished training run, once per fingerprint.

        `curves` are values per epoch; `texts` and `figures` become artifacts by file name.
        """
        if self.run_of(fingerprint) is not None:
            return
        tags = {"git.revision": git_revision()}
        if pipeline_run := os.environ.get(PIPELINE_RUN):
            tags[_PIPELINE_TAG] = pipeline_run
        if self.given_run:
            run = self.client.get_run(self.given_run)
            for name, value in tags.items():
                self.client.set_tag(self.given_run, name, value)
        else:
            run = self.client.create_run(self.experiment_id, run_name=run_name, tags=tags)
        run_id = run.info.run_id
        metrics = [
            Metric(name, value, run.info.start_time, epoch)
            for name, values in curves.items()
            for epoch, value in enumerate(values, start=1)
        ]
        self.client.log_batch(run_id, metrics=metrics, params=[Param(k, str(v)) for k, v in params.items()])
        for file, text in texts.items():
            self.client.log_text(run_id, text, file)
        for file, figure in figures.items():
            self.client.log_figure(run_id, figure, file)
        if not self.given_run:
            self.client.set_terminated(run_id)
        # Last, so that only a run that was logged whole is found again.
        self.client.set_tag(run_id, _FINGERPRINT_TAG, fingerprint)

    @_told
    def run_of(self, fingerprint: str) -> str | None:
        """MLflow's id of the run logged under a stage's fingerprint."""
        found = self.client.search_runs([self.experiment_id], f"tags.`{_FINGERPRINT_TAG}` = '{fingerprint}'")
        return found[0].info.run_id if found else None

    @_told
    def register(self, model_version: str, uri: str, run_id: str | None) -> Registered:
        """Register a model's files (once) and point `challenger` at them."""
        known = self.find(model_version)
        if known is None:
            served = self.tracking_uri.startswith(("http:", "https:"))
            source = f"{_VOLUME}{storage.local_path(uri)}" if served and storage.is_local(uri) else uri
            tags = {_VERSION_TAG: model_version, _URI_TAG: uri}
            created = self.client.create_model_version(self.name, source=source, run_id=run_id, tags=tags)
            known = Registered(str(created.version), model_version, uri, run_id, "")
        if not known.decision:
            self.client.set_registered_model_alias(self.name, CHALLENGER, known.number)
        return known

    @_told
    def find(self, model_version: str) -> Registered | None:
        """A registered version by our name for it."""
        for version in self.client.search_model_versions(f"name = '{self.name}'"):
            if version.tags.get(_VERSION_TAG) == model_version:
                return _registered(version)
        return None

    @_told
    def by_alias(self, alias: str) -> Registered | None:
        """The version an alias points at, or None."""
        try:
            return _registered(self.client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            # MLflow answers a missing alias with INVALID_PARAMETER_VALUE.
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise

    @_told
    def decide(self, version: Registered, promoted: bool, metrics: Mapping[str, float], text: str) -> None:
        """Record the gate's decision and, when promoted, move `champion` and `previous`; once per version.

        A refused version may be promoted later, when the gate's conditions have changed; a promoted one stays so.
        """
        outcome = "promoted" if promoted else "refused"
        if version.decision in (outcome, "promoted"):
            log.info("model %s was already decided: %s", version.model_version, version.decision)
            return
        if version.run_id:
            for name, value in metrics.items():
                self.client.log_metric(version.run_id, name, value)
            self.client.log_text(version.run_id, text, "decision.json")
        if promoted:
            champion = self.by_alias(CHAMPION)
            if champion is not None and champion.number != version.number:
                self.client.set_registered_model_alias(self.name, PREVIOUS, champion.number)
            self.client.set_registered_model_alias(self.name, CHAMPION, version.number)
        self.client.set_model_version_tag(self.name, version.number, _DECISION_TAG, outcome)


def _create_database(path: Path) -> None:
    """Make MLflow's tables beside their place: its migrations can't be run again once they were killed half-way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        for left in path.parent.glob(f".{path.name}.making-*"):
            shutil.rmtree(left, ignore_errors=True)
        making = Path(tempfile.mkdtemp(prefix=f".{path.name}.making-", dir=path.parent))
        try:
            MlflowClient(tracking_uri=f"{_SQLITE}{making}/{path.name}").search_experiments(max_results=1)
            (making / path.name).rename(path)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def git_revision() -> str:
    """The commit this code is of: as its image says, or of the working tree it runs from; else `unknown`."""
    if revision := os.environ.get("LIMAML_REVISION"):
        return revision
    if shutil.which("git") is None:
        return "unknown"
    here = Path(__file__)

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    # A virtual environment may lie inside somebody else's repository, which does not track this file.
    tracked = git("ls-files", "--error-unmatch", here.name).returncode == 0
    return git("rev-parse", "HEAD").stdout.strip() if tracked else "unknown"


def _registered(version: Any) -> Registered:
    tags = version.tags
    return Registered(
        str(version.version),
        tags.get(_VERSION_TAG, ""),
        tags.get(_URI_TAG, version.source),
        version.run_id,
        tags.get(_DECISION_TAG, ""),
    )
