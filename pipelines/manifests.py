"""An application's pipelines as Kubernetes objects, for a Kubeflow Pipelines that keeps its pipelines in Kubernetes."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from limaml.config import Application
from pipelines.compile import KINDS, define
from pipelines.uploads import compiled


def manifests(application: Application, image: str = "", kinds: Iterable[str] = ()) -> list[dict[str, Any]]:
    """`Pipeline` and `PipelineVersion` of each kind, under the names and versions that uploading gives them.

    Raises:
        ConfigError: there is no such kind of pipeline.
    """
    return [each for kind in kinds or KINDS for each in _pair(application, kind, image)]


def _pair(application: Application, kind: str, image: str) -> list[dict[str, Any]]:
    text = compiled(kind, application, image)
    options = KubernetesManifestOptions(
        pipeline_name=text.name,
        pipeline_display_name=text.name,
        pipeline_version_name=f"{text.name}-{text.version}",
        pipeline_version_display_name=text.version,
        include_pipeline_manifest=True,
    )
    with tempfile.TemporaryDirectory(prefix="limaml-manifests-") as folder:
        path = Path(folder) / "manifests.yaml"
        compiler.Compiler().compile(
            define(kind, application, image=image),
            str(path),
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=options,
        )
        return list(yaml.safe_load_all(path.read_text()))
