"""Sections of an application that say how its pipelines run on a cluster, and when.

Secrets are never values here, only the names of Kubernetes secrets and of the environment variables they become.
"""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from limaml.sections import Section, first_repeated

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[KMGTP]i?)?$")]
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_CRON_FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 6),
)


def _six_fields(cron: str) -> str:
    """Kubeflow's cron has seconds first; five fields would be read as something else, silently."""
    fields = cron.split()
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError(
            f"cron {cron!r} has {len(fields)} fields, Kubeflow's has six, seconds first: "
            "'0 30 2 * * *' is half past two every night, UTC"
        )
    for text, (name, low, high) in zip(fields, _CRON_FIELDS, strict=True):
        for part in text.split(","):
            _check_part(cron, part, name, low, high)
    return cron


def _check_part(cron: str, part: str, name: str, low: int, high: int) -> None:
    span, slash, step = part.partition("/")
    numbers = [] if (span in ("*", "?") and name in ("day", "weekday")) or span == "*" else span.split("-")
    good = len(numbers) <= 2 and all(number.isdigit() and low <= int(number) <= high for number in numbers)
    ordered = not good or len(numbers) < 2 or int(numbers[0]) <= int(numbers[1])
    stepped = not slash or (step.isdigit() and int(step) > 0)
    if not (good and ordered and stepped):
        raise ValueError(
            f"cron {cron!r}: {part!r} is no {name}; give *, {low}–{high}, a range a-b, a list a,b or a step */n"
        )


Cron = Annotated[str, AfterValidator(_six_fields)]


class Toleration(Section):
    """A taint that a step's pod may run in spite of."""

    key: str = Field(default="", description="empty, with operator Exists: every taint")
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class SecretVariable(Section):
    """One key of a Kubernetes secret as an environment variable of every step."""

    variable: Variable
    secret: KubernetesName
    key: str = Field(min_length=1)
    optional: bool = Field(default=False, description="start without it where the secret has no such key")


class Volume(Section):
    """A persistent volume claim mounted into every step, for a workspace or data that are no bucket."""

    claim: KubernetesName
    path: str = Field(description="absolute path in the container")

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        if not PurePosixPath(path).is_absolute() or path == "/":
            raise ValueError("must be an absolute path below /")
        return path


class StepResources(Section):
    """What a step asks of the cluster. Memory is request and limit at once; the CPU is a request alone."""

    cpu: Quantity = "1"
    memory: Quantity = "4Gi"
    gpus: int = Field(default=0, ge=0)
    gpu_type: str = Field(
        default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[a-z0-9.-]+$", description="the resource's name"
    )
    shared_memory: Quantity | None = Field(
        default=None,
        description="size of /dev/shm in memory, for processes that exchange tensors; none: the node's 64 MiB",
    )
    node_selector: dict[str, str] = Field(default={}, description="labels a node must have")
    tolerations: tuple[Toleration, ...] = ()
    timeout_minutes: int = Field(default=120, ge=1, description="of one attempt, waiting for a node included")
    retries: int = Field(
        default=2, ge=0, description="attempts after the first; each waits twice as long as the one before"
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


class Cluster(Section):
    """Where pipelines run on Kubeflow, and what their pods get."""

    workspace: str = Field(
        default="", description="default of the pipelines' `workspace`: s3://… or file://… on a volume"
    )
    data: str = Field(default="", description="default of the pipelines' `data`; empty: <workspace>/<name>/data")
    service_account: str = Field(default="", description="of every step's pod; empty: Kubeflow's own for runs")
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    environment: dict[Variable, str] = Field(
        default={},
        description="variables of every step, such as MLFLOW_TRACKING_URI or AWS_ENDPOINT_URL; never a secret",
    )
    secrets: tuple[SecretVariable, ...] = ()
    volumes: tuple[Volume, ...] = ()
    run_timeout_minutes: int = Field(default=1440, ge=1, description="a run that takes longer is ended")
    lease_minutes: int = Field(
        default=60,
        ge=2,
        description="how long a run keeps its date between two steps, while none of them renews the lease",
    )
    steps: Steps = Steps()

    @model_validator(mode="after")
    def _variables_are_set_once(self) -> Self:
        if twice := first_repeated([*self.environment, *(each.variable for each in self.secrets)]):
            raise ValueError(f"environment and secrets set {twice} twice")
        if twice := first_repeated([each.path for each in self.volumes]):
            raise ValueError(f"volumes: {twice} is mounted twice")
        return self


class Timetable(Section):
    """When a pipeline runs by itself."""

    cron: Cron = Field(description="six fields, seconds first, UTC: '0 30 2 * * *' is half past two every night")
    enabled: bool = True


class Schedule(Section):
    """When each pipeline runs by itself; none: never. `limaml schedule apply` makes Kubeflow agree."""

    train: Timetable | None = None
    refresh: Timetable | None = None
    monitor: Timetable | None = None
