"""An application's pipelines in Kubeflow Pipelines: one pipeline a kind, one version a text."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from limaml.config import Application
from limaml.errors import ConfigError
from pipelines.compile import KINDS, compile_pipeline, pipeline_name
from pipelines.kubeflow import Kubeflow
from pipelines.kubeflow_errors import Refusal

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compiled:
    """A pipeline's text for Kubeflow; equal inputs have equal texts, so its digest names the version."""

    kind: str
    application: str
    text: str

    @property
    def name(self) -> str:
        """What the pipeline is called in Kubeflow: `ptap-refresh`."""
        return pipeline_name(self.kind, self.application)

    @property
    def version(self) -> str:
        """The version's name: 12 digits of the text's SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @cached_property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """What the pipeline takes, by name: type, default, whether it may be left out."""
        # The parser in C where there is one: a pipeline's text takes the other a quarter of a second. Both are safe.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        root = yaml.load(self.text.partition("\n---\n")[0], loader)["root"]  # noqa: S506
        return root.get("inputDefinitions", {}).get("parameters", {})

    def arguments(self, given: dict[str, str]) -> dict[str, str]:
        """What a run is given, after a look at what the pipeline takes; empty values are left to its defaults.

        Raises:
            ConfigError: an argument it does not have, or one that is missing.
        """
        known = self.parameters
        given = {name: value for name, value in given.items() if value}
        if unknown := sorted(given.keys() - known.keys()):
            raise ConfigError(f"pipeline {self.kind} takes no {unknown[0]!r}; it takes {', '.join(sorted(known))}")
        required = {name for name, about in known.items() if not about.get("isOptional")}
        if missing := sorted(required - given.keys()):
            raise ConfigError(f"pipeline {self.kind} needs {', '.join(missing)}: give --param {missing[0]}=…")
        if "workspace" in known and not (given.get("workspace") or known["workspace"].get("defaultValue")):
            raise ConfigError(
                f"application {self.application}: no workspace: set cluster.workspace in its YAML, or give --workspace"
            )
        return given


@dataclass(frozen=True)
class Version:
    """A version of a pipeline that Kubeflow holds."""

    pipeline: str
    pipeline_id: str
    version: str
    version_id: str
    uploaded: bool

    @property
    def reference(self) -> dict[str, str]:
        """How a run names it."""
        return {"pipeline_id": self.pipeline_id, "pipeline_version_id": self.version_id}


def compiled(kind: str, application: Application, image: str = "") -> Compiled:
    """A pipeline of an application as it is now.

    Raises:
        ConfigError: there is no such kind of pipeline.
    """
    return Compiled(kind, application.name, compile_pipeline(kind, application, image=image))


def named(name: str) -> str:
    """Kubeflow's filter for one display name."""
    return json.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})


def upload(kubeflow: Kubeflow, text: Compiled) -> Version:
    """The version of a text, uploaded where it is not there yet; safe to repeat and to do twice at once."""
    pipeline = (_find_pipeline(kubeflow, text.name) or _create_pipeline(kubeflow, text))["pipeline_id"]
    found = _find_version(kubeflow, pipeline, text.version)
    version = found or _upload_version(kubeflow, pipeline, text)
    if not found:
        log.info("uploaded %s, version %s", text.name, text.version)
    return Version(text.name, pipeline, text.version, version["pipeline_version_id"], not found)


def register(kubeflow: Kubeflow, application: Application, image: str = "", kinds: Iterable[str] = ()) -> list[Version]:
    """Upload an application's pipelines, all or some kinds of them."""
    return [upload(kubeflow, compiled(kind, application, image)) for kind in kinds or KINDS]


def registered(kubeflow: Kubeflow, application: str) -> Iterator[dict[str, Any]]:
    """An application's pipelines in Kubeflow, each with its versions, oldest first."""
    for kind in KINDS:
        name = pipeline_name(kind, application)
        if found := _find_pipeline(kubeflow, name):
            pipeline = found["pipeline_id"]
            versions = sorted(_versions(kubeflow, pipeline), key=lambda each: str(each.get("created_at")))
            yield {
                "kind": kind,
                "pipeline": name,
                "pipeline_id": pipeline,
                "versions": [{"version": _name(each), "created_at": each.get("created_at")} for each in versions],
                "link": kubeflow.link("pipelines", "details", pipeline),
            }


def remove(kubeflow: Kubeflow, application: str) -> list[str]:
    """Delete an application's pipelines with their versions; runs there have been stay. Names of those deleted."""
    removed = []
    for each in list(registered(kubeflow, application)):
        pipeline, action = each["pipeline_id"], f"delete pipeline {each['pipeline']}"
        for version in _versions(kubeflow, pipeline):
            identity = {"pipeline_id": pipeline, "pipeline_version_id": version["pipeline_version_id"]}
            _delete(kubeflow, action, kubeflow.pipelines.pipeline_service_delete_pipeline_version, **identity)
        _delete(kubeflow, action, kubeflow.pipelines.pipeline_service_delete_pipeline, pipeline_id=pipeline)
        removed.append(each["pipeline"])
    return removed


def experiment(kubeflow: Kubeflow, application: Application) -> str:
    """Id of the experiment that holds an application's runs, made where it is not there yet."""
    name, namespace = application.name, kubeflow.namespace
    listing = kubeflow.experiments.experiment_service_list_experiments

    def find() -> dict[str, Any] | None:
        action = f"look for experiment {name}"
        found = kubeflow.each(action, listing, "experiments", filter=named(name), namespace=namespace)
        return next((each for each in found if _name(each) == name), None)

    if found := find():
        return found["experiment_id"]
    body = {"display_name": name, "description": f"Runs of LiMAML's application {name}: {application.title}"}
    create = kubeflow.experiments.experiment_service_create_experiment
    body |= {"namespace": namespace} if namespace else {}
    return _make(find, kubeflow, f"create experiment {name}", create, experiment=body)["experiment_id"]


def _find_pipeline(kubeflow: Kubeflow, name: str) -> dict[str, Any] | None:
    listing = kubeflow.pipelines.pipeline_service_list_pipelines
    given = {"filter": named(name), "namespace": kubeflow.namespace}
    found = kubeflow.each(f"look for pipeline {name}", listing, "pipelines", **given)
    return next((each for each in found if _name(each) == name), None)


def _create_pipeline(kubeflow: Kubeflow, text: Compiled) -> dict[str, Any]:
    about = f"{text.kind} of LiMAML's application {text.application}; a version a text, made by limaml"
    body = {"name": text.name, "display_name": text.name, "description": about}
    body |= {"namespace": kubeflow.namespace} if kubeflow.namespace else {}
    create, action = kubeflow.pipelines.pipeline_service_create_pipeline, f"create pipeline {text.name}"
    return _make(lambda: _find_pipeline(kubeflow, text.name), kubeflow, action, create, pipeline=body)


def _versions(kubeflow: Kubeflow, pipeline: str, **only: str) -> list[dict[str, Any]]:
    listing = kubeflow.pipelines.pipeline_service_list_pipeline_versions
    return list(kubeflow.each("list pipeline versions", listing, "pipeline_versions", pipeline_id=pipeline, **only))


def _find_version(kubeflow: Kubeflow, pipeline: str, name: str) -> dict[str, Any] | None:
    # By name, on the server: a listing carries every version's whole text, some 100 kB each.
    return next((each for each in _versions(kubeflow, pipeline, filter=named(name)) if _name(each) == name), None)


def _upload_version(kubeflow: Kubeflow, pipeline: str, text: Compiled) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="limaml-upload-") as folder:
        package = Path(folder) / f"{text.name}.yaml"
        package.write_text(text.text)
        given = {"uploadfile": str(package), "name": text.version, "pipelineid": pipeline}
        given["description"] = f"SHA-256 {hashlib.sha256(text.text.encode()).hexdigest()}"
        request, action = kubeflow.uploads.upload_pipeline_version, f"upload pipeline {text.name}"
        return _make(lambda: _find_version(kubeflow, pipeline, text.version), kubeflow, action, request, **given)


def _make(
    find: Callable[[], dict[str, Any] | None],
    kubeflow: Kubeflow,
    action: str,
    request: Callable[..., Any],
    **given: Any,
) -> dict[str, Any]:
    """Make something that has a name of its own; where another was faster, theirs."""
    try:
        return kubeflow.call(action, request, **given)
    except Refusal as refusal:
        if refusal.status == 409 and (found := find()):
            return found
        raise


def _delete(kubeflow: Kubeflow, action: str, request: Any, **identity: Any) -> None:
    try:
        kubeflow.call(action, request, **identity)
    except Refusal as refusal:
        if refusal.status != 404:  # another was faster
            raise


def _name(each: dict[str, Any]) -> str:
    return each.get("display_name") or each.get("name") or ""
