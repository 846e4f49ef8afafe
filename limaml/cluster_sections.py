"""Sections of an application that say how its pipelines run on a cluster, and when.

Secrets are never values here, only the names of Kubernetes secrets and of the environment variables they become.
"""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from limaml import cron
from limaml.sections import Section, first_repeated

_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"


def _spelled(pattern: str, what: str, longest: int = 253) -> AfterValidator:
    """Hold a text against a pattern; the error says what is wanted rather than the pattern."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text) or len(text) > longest:
            raise ValueError(f"is no {what}")
        return text

    return AfterValidator(check)


def _in_schema(pattern: str) -> Any:
    """The same pattern for whoever checks by the JSON schema, as Helm does."""
    return Field(json_schema_extra={"pattern": f"^({pattern})$"})


_SECRET = re.compile("(PASSWORD|PASSWD|TOKEN|SECRET|ACCESS_KEY|API_KEY|CREDENTIALS)$")
_CPU = r"0\.[0-9]{0,2}[1-9]|[1-9][0-9]*(\.[0-9]{1,3})?|[1-9][0-9]*m"
_MEMORY = r"[1-9][0-9]*([KMGTP]i|[MGTP])"
_NAME_IN_WORDS = "name in Kubernetes: lower-case letters, digits, - and ."
_CRON_FIELDS = r"\s*(@[A-Za-z]+|\S+(\s+\S+){5})\s*"

JavaSize = Annotated[str, Field(pattern=r"^[1-9][0-9]*[mg]$")]
KubernetesName = Annotated[str, _spelled(_DNS, _NAME_IN_WORDS), _in_schema(_DNS)]
OptionalName = Annotated[str, _spelled(f"({_DNS})?", _NAME_IN_WORDS), _in_schema(f"({_DNS})?")]
Variable = Annotated[
    str,
    _spelled("[A-Za-z_][A-Za-z0-9_]*", "name of an environment variable: letters, digits and _"),
    _in_schema("[A-Za-z_][A-Za-z0-9_]*"),
]
LabelKey = Annotated[
    str,
    _spelled(f"({_DNS}/)?{_LABEL}", "key of a label, as cloud.example/pool", 317),
    _in_schema(f"({_DNS}/)?{_LABEL}"),
]
OptionalLabelKey = Annotated[
    str,
    _spelled(f"(({_DNS}/)?{_LABEL})?", "key of a taint, as nvidia.com/gpu", 317),
    _in_schema(f"(({_DNS}/)?{_LABEL})?"),
]
LabelValue = Annotated[
    str, _spelled(f"({_LABEL})?", "value of a label: up to 63 letters, digits, - _ ."), _in_schema(f"({_LABEL})?")
]
Resource = Annotated[
    str, _spelled(f"{_DNS}/{_LABEL}", "resource of a device plug-in, as nvidia.com/gpu"), _in_schema(f"{_DNS}/{_LABEL}")
]
Cpu = Annotated[str, _spelled(_CPU, "amount of CPU: give cores, as 2 or 0.5, or 500m"), _in_schema(_CPU)]
# What Kubeflow passes on and Kubernetes reads alike; a bare number would be bytes.
Memory = Annotated[
    str, _spelled(_MEMORY, "amount of memory: give a whole number with its unit, as 16Gi or 512Mi"), _in_schema(_MEMORY)
]
Cron = Annotated[str, AfterValidator(cron.normalize), _in_schema(_CRON_FIELDS)]


class Toleration(Section):
    """A taint that a step's pod may run in spite of."""

    key: OptionalLabelKey = Field(default="", description="empty, with operator Exists: every taint")
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""

    @model_validator(mode="after")
    def _as_kubernetes_reads_it(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"value {self.value!r}: operator Exists looks at no value; leave one of them out")
        if self.operator == "Equal" and not self.key:
            raise ValueError("key: required, unless operator is Exists, which then tolerates every taint")
        return self


class SecretVariable(Section):
    """One key of a Kubernetes secret as an environment variable of every step."""

    variable: Variable
    secret: KubernetesName
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)
    optional: bool = Field(default=False, description="start without it where the secret has no such key")


class Volume(Section):
    """A persistent volume claim mounted into every step, for a workspace or data that are no bucket."""

    claim: KubernetesName
    path: str = Field(description="absolute path in the container")

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not path.startswith("/") or len(parts) < 2 or ".." in parts or ":" in path:
            raise ValueError("must be an absolute path below /")
        if parts[:2] == ("/", "tmp") or parts[1] in ("bin", "dev", "etc", "lib", "proc", "sys", "usr"):
            raise ValueError(f"/{parts[1]} belongs to the container: choose another, as /mnt/data")
        return "/".join(["", *parts[1:]])


class StepResources(Section):
    """What a step asks of the cluster. Memory is request and limit at once; the CPU is a request alone."""

    cpu: Cpu = "1"
    memory: Memory = "4Gi"
    gpus: int = Field(default=0, ge=0)
    gpu_type: Resource = Field(default="nvidia.com/gpu", description="the resource's name")
    shared_memory: Memory | None = Field(
        default=None,
        description="size of /dev/shm in memory, for processes that exchange tensors; none: the node's 64 MiB",
    )
    node_selector: dict[LabelKey, LabelValue] = Field(default={}, description="labels a node must have")
    tolerations: tuple[Toleration, ...] = ()
    timeout_minutes: int = Field(default=120, ge=1, description="of one attempt, waiting for a node included")
    retries: int = Field(
        default=2, ge=0, le=10, description="attempts after the first; each waits twice as long as the one before"
    )


class Steps(Section):
    """Resources by step."""

    validate_data: StepResources = StepResources()
    group_tasks: StepResources = StepResources(memory="6Gi")
    train_theta: StepResources = StepResources(cpu="4", memory="16Gi", timeout_minutes=720)
    generate_embeddings: StepResources = StepResources(cpu="2", memory="6Gi")
    gate_theta: StepResources = StepResources(cpu="2", memory="8Gi")
    push_embeddings: StepResources = StepResources(memory="6Gi")
    monitor: StepResources = StepResources()
    analyze_ab: StepResources = StepResources(memory="8Gi")
    plan_backfill: StepResources = StepResources(cpu="500m", memory="2Gi", timeout_minutes=15)
    close_run: StepResources = StepResources(cpu="500m", memory="2Gi", timeout_minutes=15)


class Spark(Section):
    """The SparkApplication that groups tasks where `grouping.engine` is spark. Python works in the executors' overhead."""

    image: str = Field(default="", description="with Spark, Java and limaml[spark]; empty: the step's own image")
    main_file: str = Field(
        default="local:///opt/limaml/main.py",
        description="in that image: calls `pipelines.cli.main`; see docs/scale.md",
    )
    executors: int = Field(default=4, ge=1)
    executor_cores: int = Field(default=2, ge=1, description="a core sorts one bucket of a shard at a time")
    executor_memory: JavaSize = "2g"
    python_memory: JavaSize = Field(default="4g", description="of all Python workers of an executor, beside its memory")
    driver_memory: JavaSize = "2g"
    service_account: str = Field(default="spark", description="of the driver's pod, which creates the executors'")
    configuration: dict[str, str] = Field(default={}, description="further Spark settings, spark.… to value")


class Cluster(Section):
    """Where pipelines run on Kubeflow, and what their pods get."""

    workspace: str = Field(
        default="", description="default of the pipelines' `workspace`: s3://… or file://… on a volume"
    )
    data: str = Field(default="", description="default of the pipelines' `data`; empty: <workspace>/<name>/data")
    service_account: OptionalName = Field(default="", description="of every step's pod; empty: Kubeflow's own for runs")
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    environment: dict[Variable, str] = Field(
        default={},
        description="variables of every step, such as MLFLOW_TRACKING_URI or AWS_ENDPOINT_URL; never a secret",
    )
    secrets: tuple[SecretVariable, ...] = ()
    volumes: tuple[Volume, ...] = ()
    run_timeout_minutes: int = Field(
        default=1440,
        ge=1,
        description="how long a run may work on one date, and a step with all its attempts; a step begins no later",
    )
    lease_minutes: int = Field(
        default=60,
        ge=2,
        description="how long a run keeps its date between two steps, while none of them renews the lease",
    )
    train_on: Literal["step", "trainjob"] = Field(
        default="step", description="step: θ is trained in its step's pod; trainjob: by a Kubeflow Trainer TrainJob"
    )
    nodes: int = Field(default=1, ge=1, description="pods of the TrainJob, each with what `steps.train_theta` asks for")
    processes_per_node: int = Field(default=1, ge=1, description="training processes a pod; with GPUs, one for each")
    training_runtime: KubernetesName = Field(
        default="torch-distributed", description="the ClusterTrainingRuntime a TrainJob builds upon"
    )
    pending_minutes: int = Field(
        default=30,
        ge=1,
        description="how long a pod of a TrainJob or SparkApplication may wait for a node, and then for its first container",
    )
    # Argo keeps the state of a run in one object, of which a part takes some 10 kB when packed; it may have 1 MB.
    fan_out: int = Field(
        default=1,
        ge=1,
        le=64,
        description="pods that generate and push shards side by side, where the store lets them",
    )
    spark: Spark = Spark()
    steps: Steps = Steps()

    @model_validator(mode="after")
    def _several_nodes_are_a_trainjob(self) -> Self:
        if self.nodes > 1 and self.train_on == "step":
            raise ValueError(f"nodes: {self.nodes}, but a step has one pod: set train_on: trainjob, or nodes: 1")
        gpus = self.steps.train_theta.gpus
        if gpus and self.processes_per_node > gpus:
            raise ValueError(
                f"processes_per_node: {self.processes_per_node}, but steps.train_theta.gpus is {gpus}: each process "
                "needs a GPU of its own"
            )
        return self

    @model_validator(mode="after")
    def _secrets_are_no_values(self) -> Self:
        for name, value in self.environment.items():
            # Said of the whole section, whose values errors don't print: whoever wrote a secret has it in no log.
            if _SECRET.search(name.upper()) or re.search("//[^/@]*:[^/@]*@", value):
                raise ValueError(f"environment.{name} looks like a secret; name one of Kubernetes under `secrets`")
        return self

    @model_validator(mode="after")
    def _variables_are_set_once(self) -> Self:
        # Kubernetes takes the later of two; which one that is here depends on how a pod is put together.
        if twice := first_repeated([*self.environment, *(each.variable for each in self.secrets)]):
            raise ValueError(f"environment and secrets set {twice} twice")
        if twice := first_repeated([each.path for each in self.volumes]):
            raise ValueError(f"volumes: {twice} is mounted twice")
        return self


class Timetable(Section):
    """When a pipeline runs by itself."""

    cron: Cron = Field(
        description="six fields, seconds first, UTC: '0 30 2 * * *' is half past two every night; names (MON, JAN) and "
        "@daily and its like are taken too"
    )
    enabled: bool = True


class Schedule(Section):
    """When each pipeline runs by itself; none: never. `limaml schedule apply` makes Kubeflow agree."""

    train: Timetable | None = None
    refresh: Timetable | None = None
    monitor: Timetable | None = None
