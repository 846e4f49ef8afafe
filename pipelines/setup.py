"""What an application says of its pipelines, put on the one being defined: parameters' defaults, each step's pod.

Nothing of it reaches a run on this machine: `pipelines.local` leaves the platform's part out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kfp import dsl, kubernetes

from components.close_run import close_run
from limaml.cluster_sections import StepResources
from limaml.config import Application
from limaml.manifest import canonical_json

# The image's user; Kubernetes' restricted Pod Security wants it by number.
USER = 10001
FIRST_WAIT_SECONDS = 30
# Steps that share the resources of the one they are parts of.
SHARED = {
    "plan_embeddings": "generate_embeddings",
    "generate_part": "generate_embeddings",
    "plan_push": "push_embeddings",
    "push_part": "push_embeddings",
}


@dataclass(frozen=True)
class Setup:
    """One application's pipelines: its configuration, the image, and where everything lies."""

    application: Application
    image: str
    workspace: str = ""
    data: str = ""
    run_id: str = dsl.PIPELINE_JOB_ID_PLACEHOLDER

    @cached_property
    def text(self) -> str:
        """The application as the pipelines' parameter `application` takes it, without what is a default anyway.

        A person reads it in Kubeflow's form, and Argo writes it into every node of a run's workflow, which has a
        megabyte for all of them.
        """
        return canonical_json(self.application.model_dump(mode="json", exclude_defaults=True)).decode()

    @contextmanager
    def run(self, kind: str, title: str, image: Any, application: Any, workspace: Any) -> Iterator[dict[str, Any]]:
        """The frame around a pipeline's steps: however they end, the run is closed. Gives what every step is told."""
        said = {"application": application, "workspace": workspace, "run_id": self.run_id}
        closing: Any = close_run(kind=kind, **said)
        self._dress(closing, "Close the run", image)
        with dsl.ExitHandler(closing, name=title):
            yield {"image": image, **said}

    def add(self, component: Any, title: str, image: Any, **arguments: Any) -> Any:
        """Add a step to the pipeline being defined, named for people, and give its output parameters by name.

        Kubeflow's cache stays off: its key covers parameters, not what lies behind a URI, so late rows under the same
        date or a moved release would be answered from an old run. Our stages skip finished work by what their inputs
        hold.
        """
        task = component(**arguments)
        self._dress(task, title, image)
        return task.outputs

    def _dress(self, task: Any, title: str, image: Any) -> None:
        """Name a step, and give its pod what the application says."""
        cluster = self.application.cluster
        step = self._resources(task.component_spec.name.replace("-", "_"))
        task.set_caching_options(enable_caching=False).set_container_image(image)
        if title:
            task.set_display_name(title)
        task.set_cpu_request(step.cpu).set_memory_request(step.memory).set_memory_limit(step.memory)
        if step.gpus:
            task.set_accelerator_type(step.gpu_type).set_accelerator_limit(step.gpus)
        minutes = min(step.timeout_minutes, cluster.run_timeout_minutes)
        _retry(task, step.retries, 60 * minutes, 60 * cluster.run_timeout_minutes)
        kubernetes.set_timeout(task, 60 * minutes)
        kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
        # The rest of restricted Pod Security is Kubeflow's own: no escalation, no capabilities, the default seccomp.
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        if cluster.image_pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(cluster.image_pull_secrets))
        for label, value in sorted(step.node_selector.items()):
            kubernetes.add_node_selector(task, label, value)
        for taint in step.tolerations:
            said = {name: value for name, value in taint.model_dump().items() if value}
            kubernetes.add_toleration(task, **said)
        if step.shared_memory:
            kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", step.shared_memory)
        for volume in cluster.volumes:
            kubernetes.mount_pvc(task, volume.claim, volume.path)
        for name, value in sorted(cluster.environment.items()):
            task.set_env_variable(name, value)
        for secret in cluster.secrets:
            kubernetes.use_secret_as_env(task, secret.secret, {secret.key: secret.variable}, secret.optional)

    def _resources(self, name: str) -> StepResources:
        """What a step asks of the cluster; one that only watches other pods is small."""
        cluster = self.application.cluster
        step: StepResources = getattr(cluster.steps, SHARED.get(name, name))
        watches = (name == "train_theta" and cluster.train_on == "trainjob") or (
            name == "group_tasks" and self.application.grouping.engine == "spark"
        )
        if not watches:
            return step
        return StepResources(cpu="250m", memory="2Gi", timeout_minutes=step.timeout_minutes, retries=step.retries)


def _retry(task: Any, retries: int, timeout: int, most: int) -> None:
    """Retries with waits that double, all attempts together in at most `most` seconds.

    The longest duration counts from the first attempt's start and ends whatever runs then, so Kubeflow's hour would
    leave a long step no second attempt: it is given room for all of them.
    """
    waits = FIRST_WAIT_SECONDS * (2**retries - 1)
    task.set_retry(
        retries,
        backoff_duration=f"{FIRST_WAIT_SECONDS}s",
        backoff_factor=2.0,
        backoff_max_duration=f"{min(timeout * (retries + 1) + waits, most)}s",
    )
