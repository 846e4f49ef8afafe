"""One application, one YAML, one frozen object.

Everything an application needs is here; pipelines, the validation suite, the store layout, monitoring and the A/B
report are derived from it. Names say what they are; where the paper has a Greek letter, the description gives it.
"""

import difflib
import json
import re
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from limaml.application_files import read_application
from limaml.cluster_sections import Cluster, Schedule
from limaml.errors import ConfigError
from limaml.manifest import fingerprint
from limaml.online_sections import Exposures, Serve, Served, Store, Trial
from limaml.sections import (
    AlsoTask,
    Column,
    Data,
    Definition,
    Feature,
    Features,
    Grouping,
    Positive,
    Ratio,
    Section,
    Slug,
    Task,
    Validation,
    Windows,
    first_repeated,
)
from limaml.sections import PastAggregate as PastAggregate


class Network(Section):
    """The two blocks (§4)."""

    embedding_width: int = Field(default=16, ge=1, description="D, width of a meta embedding")
    adapted: Literal["embedding", "meta_block", "network"] = Field(
        default="embedding",
        description="what the inner loop moves: a shift of the meta block's output, every weight of the meta block, or "
        "of both blocks (entire-network MAML: a baseline to train and evaluate; it has no embedding to publish)",
    )
    meta_block: Literal["mlp", "transformer", "deep_sets"] = Field(
        default="transformer",
        description="transformer, deep_sets: the block also reads the task's earlier samples and their labels, by "
        "attention or as a set",
    )
    meta_hidden: tuple[int, ...] = Field(default=(64,), description="hidden widths of the meta block")
    global_hidden: tuple[int, ...] = Field(default=(64, 32), description="hidden widths of the global block")
    category_width: int = Field(default=8, ge=1, description="width of a categorical feature's vector")
    item_product: bool = Field(
        default=True, description="feed the product of embedding and an item vector to the global block"
    )
    adapted_bias: bool = Field(default=True, description="one more embedding coordinate, added to the logit")
    bias_gate: bool = Field(
        default=True, description="let the other features decide how much of the adapted bias is added"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _what_looks_back_has_a_width(self) -> Self:
        if self.meta_block != "mlp" and not self.meta_hidden:
            raise ValueError(
                f"meta_hidden is empty, but meta_block {self.meta_block} takes its width from its first number"
            )
        return self


class Training(Section):
    """Alg. 2a and the recipe of §6.4."""

    epochs: int = Field(default=8, ge=1)
    tasks_per_batch: int = Field(default=128, ge=1, description="tasks an outer step, of each process")
    global_learning_rate: Positive = Field(
        default=0.002, description="β, of the outer loop, at 128 tasks a batch; scaled by the tasks of all processes"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_fraction: Ratio = 0.1
    gradient_clip: Positive = Field(default=1.0, description="norm of the outer gradient")
    task_learning_rate: Positive = Field(default=1.0, description="α, of the inner loop; where learned, its start")
    learned_task_learning_rate: bool = Field(default=True, description="learn α per coordinate")
    inner_steps: int = Field(default=3, ge=0, description="n, inner steps in training")
    inner_loss: Literal["mean", "shrunk"] = Field(
        default="shrunk", description="shrunk: sum over (samples + κ), κ learned"
    )
    shrinkage: Positive = Field(default=3.0, description="κ's start, in samples")
    bias_step: Literal["gradient", "newton"] = Field(
        default="newton",
        description="newton: the adapted bias, where network.adapted is embedding, takes Newton steps with a learned ridge",
    )
    bias_ridge: Positive = Field(default=3.0, description="that ridge's start")
    support_split: Literal["fraction", "random_day"] = Field(
        default="random_day",
        description="fraction: task.support_fraction's oldest share is support; random_day: a new day for each task and "
        "epoch, with the samples before it as support, as a daily refresh meets them",
    )
    meta_gradient: Literal["second_order", "first_order"] = Field(
        default="second_order", description="first_order: the outer gradient takes inner gradients as constants"
    )
    global_gradient: Literal["direct", "full"] = Field(
        default="full", description="whether ∂/∂θ_global passes the inner loop"
    )
    support_drop: Ratio = Field(
        default=0.0,
        description="share of training tasks whose support set is emptied; a random day empties some anyway",
    )
    base: Literal["joint", "frozen"] = Field(
        default="joint",
        description="joint: both blocks learn together; frozen: LiMAML takes the trained vanilla network as it is and "
        "learns what it adds for a task, so that members without samples are served as vanilla serves them",
    )
    unadapted_loss_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="weight of the un-adapted loss on all rows, so that cold members stay well served; a frozen base has "
        "none",
    )
    patience: int = Field(default=3, ge=1, description="epochs without a better validation AUC before stopping")
    checkpoint_steps: int = Field(default=500, ge=1, description="outer steps between checkpoints")
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where torch sees one")
    tf32: bool = Field(default=False, description="on a GPU: products with inputs rounded to 10 bits, faster")
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 leaves torch's choice")

    @property
    def unadapted_weight(self) -> float:
        """What the un-adapted loss weighs: nothing where nothing it depends on learns."""
        return 0.0 if self.base == "frozen" else self.unadapted_loss_weight


class Embeddings(Section):
    """Alg. 2b."""

    finetune_steps: int = Field(default=3, ge=0, description="k, steps on a task's recent samples")
    pooling: Literal["latest", "mean", "max", "cosine"] = Field(
        default="latest", description="how scored samples become one"
    )
    tasks_per_batch: int = Field(
        default=256,
        ge=1,
        description="at most: each holds its own parameters in memory; 8,192 rows end a batch as well",
    )
    refresh: Literal["delta", "full"] = Field(
        default="delta",
        description="delta: a daily refresh computes only tasks whose samples changed since the release that serves",
    )


class Gate(Section):
    """What a challenger must show on the test window, as a pair (model, generated embeddings)."""

    minimum_gain_over_vanilla: float = Field(default=0.0, description="relative AUC gain over vanilla, all rows")
    minimum_gain_over_intercept: float = Field(
        default=-0.005, description="relative AUC gain over the one-intercept-per-task control, rows with support"
    )
    maximum_drop_to_champion: Annotated[float, Field(ge=0)] = Field(default=0.001, description="relative AUC, all rows")
    maximum_calibration_error: Ratio = Field(default=0.1, description="|mean score − label rate| over the label rate")
    minimum_rows: int = Field(default=1000, ge=1, description="fewer test rows than this decide nothing: refused")


class Monitoring(Section):
    """Thresholds of the alarms; effect sizes, never p-values."""

    maximum_age_hours: Positive = Field(default=36.0, description="of the newest release, since its as_of")
    maximum_event_lag_hours: Positive = Field(default=36.0, description="as_of minus the newest event it has seen")
    minimum_coverage: Ratio = Field(default=0.9, description="share of the active tasks that find an embedding")
    feature_psi: Positive = Field(default=0.2, description="population stability index per feature")
    prediction_psi: Positive = 0.2
    embedding_shift: Positive = Field(default=0.5, description="distance of mean embeddings in units of their spread")
    sample_rows: int = Field(
        default=20_000, ge=1000, description="rows of the reservoir behind the readable drift report"
    )


class Experiment(Trial):
    """A/B tests of what scores: by default, the release that is current against the vanilla model trained beside it."""

    name: Slug = "limaml"
    salt: str = Field(default="limaml", min_length=1)
    also: tuple[Trial, ...] = Field(
        default=(), description="further tests; a member of several is served by the first of them, and exposed to it"
    )
    otherwise: Served = Field(default="current", description="what scores members who are in no test")
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    split_check_alpha: Ratio = Field(
        default=0.001, description="below this p-value the split is broken and no lift is shown"
    )
    exposures: Exposures = Exposures()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every test, the first one first."""
        return self, *self.also

    @property
    def releases(self) -> frozenset[int]:
        """Numbers of the releases that some arm names."""
        arms = [self.otherwise, *(arm for trial in self.trials for arm in (trial.control, trial.treatment))]
        return frozenset(arm for arm in arms if isinstance(arm, int))

    @model_validator(mode="after")
    def _tests_are_apart(self) -> Self:
        for what in ("name", "salt"):
            if twice := first_repeated([getattr(each, what) for each in self.trials]):
                raise ValueError(f"also: two tests have the {what} {twice!r}; one's arms would be the other's")
        ordered = sorted(self.trials, key=lambda each: (each.layer, each.slots))
        for one, other in pairwise(ordered):
            if one.layer == other.layer and other.slots[0] < one.slots[1]:
                raise ValueError(
                    f"also: tests {one.name} and {other.name} overlap in layer {one.layer!r}, "
                    f"slots {list(one.slots)} and {list(other.slots)}; give each a range of its own"
                )
        return self


class Application(Section):
    """One personalized application, whole."""

    name: Slug
    title: str = Field(min_length=1)
    description: str = ""
    task: Task
    also: tuple[AlsoTask, ...] = Field(
        default=(), description="further task definitions: each is adapted on tasks of its own"
    )
    data: Data = Data()
    features: Features
    windows: Windows = Windows()
    validation: Validation = Validation()
    grouping: Grouping = Grouping()
    network: Network = Network()
    training: Training = Training()
    embeddings: Embeddings = Embeddings()
    gate: Gate = Gate()
    store: Store = Store()
    monitoring: Monitoring = Monitoring()
    experiment: Experiment = Experiment()
    serve: Serve = Serve()
    cluster: Cluster = Cluster()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _columns_have_one_role(self) -> Self:
        outcomes = {"event_time", "label"}
        misused = sorted(outcomes & ({f.name for f in self.features.all} | set(self.key_columns)))
        if misused:
            raise ValueError(f"{', '.join(misused)} can be neither a feature nor a task key")
        return self

    @model_validator(mode="after")
    def _definitions_differ(self) -> Self:
        if twice := first_repeated([each.name for each in self.also]):
            raise ValueError(f"also: {twice} names two task definitions")
        if twice := first_repeated([frozenset(each.keys) for each in self.definitions]):
            raise ValueError(f"also: two task definitions have the keys {', '.join(sorted(twice))}")
        if self.also and self.network.adapted != "embedding":
            raise ValueError(
                f"network.adapted: several task definitions need 'embedding', not {self.network.adapted!r}: each is "
                "adapted beside the embeddings of the others"
            )
        return self

    @model_validator(mode="after")
    def _a_frozen_base_stays(self) -> Self:
        if self.training.base == "frozen" and self.network.adapted != "embedding":
            raise ValueError(
                f"training.base: a frozen base needs network.adapted 'embedding', not {self.network.adapted!r}: the "
                "inner loop moves what is added to the base, never the base"
            )
        return self

    @model_validator(mode="after")
    def _further_features_are_known(self) -> Self:
        names = [feature.name for feature in self.features.all]
        for number, each in enumerate(self.also):
            if unknown := [name for name in each.meta if name not in names]:
                raise ValueError(f"also.{number}.meta: no feature {', '.join(unknown)}; there are {', '.join(names)}")
            if twice := first_repeated(each.meta):
                raise ValueError(f"also.{number}.meta: {twice} is named twice")
        return self

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """Every task definition; the first one, `task`, makes the batches of training and evaluation."""
        return self.task, *self.also

    @property
    def definition_names(self) -> tuple[str, ...]:
        """Names of the task definitions; the first one's is empty."""
        return "", *(each.name for each in self.also)

    @property
    def key_columns(self) -> tuple[Column, ...]:
        """Columns that any task definition's keys are made of."""
        return tuple(dict.fromkeys(key for each in self.definitions for key in each.keys))

    def meta_features(self, definition: Definition) -> tuple[Feature, ...]:
        """What a definition's meta block reads, in the order of the features."""
        if not isinstance(definition, AlsoTask):
            return self.features.meta
        return tuple(feature for feature in self.features.all if feature.name in definition.meta)

    @property
    def config_hash(self) -> str:
        """SHA-256 of the whole configuration."""
        return fingerprint(**self.model_dump(mode="json"))

    def sections_hash(self, *sections: str) -> str:
        """SHA-256 of some sections: what a stage that reads only these depends on."""
        return fingerprint(**self.model_dump(mode="json", include=set(sections)))


def load_application(name_or_path: str) -> Application:
    """A shipped application by its name, or one from a YAML file by its path.

    A file may start from another application, `extends: kuairand` (a shipped name) or `extends: ./mine.yaml` (a path
    beside it), and say only what differs; see `limaml.application_files`.

    Raises:
        ConfigError: no such application, not YAML, or fields that are wrong; all of them at once, each with its path.
    """
    return parse_application(read_application(name_or_path), name_or_path)


def application_from_parameter(text: str) -> Application:
    """The application of a pipeline's parameter: one JSON string, or the name of a shipped one or a path to a file.

    Raises:
        ConfigError: no such application, not JSON, or fields that are wrong.
    """
    if not text.lstrip().startswith("{"):
        return load_application(text.strip())
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"the application is not valid JSON: {error}") from error
    return parse_application(content, "application")


def parse_application(content: Any, origin: str) -> Application:
    """Validate plain data as an application; `origin` is named in errors."""
    if not isinstance(content, dict):
        raise ConfigError(f"{origin}: an application is a mapping of sections, not {type(content).__name__}")
    try:
        return Application.model_validate(content)
    except ValidationError as error:
        lines = [_spell(item, content) for item in error.errors()]
        plural = "errors" if len(lines) > 1 else "error"
        raise ConfigError(f"{origin}: {len(lines)} {plural}\n" + "\n".join(f"  {line}" for line in lines)) from error


def _spell(item: Any, content: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        allowed = _fields_at(item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed here: {', '.join(allowed)}"
        return f"{path}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{path}: required, but not there"
    message = item["msg"].removeprefix("Value error, ")
    value = item["input"]
    # Nobody should put a password in a URL; whoever does must not find it in a log, too.
    shown = (
        "" if isinstance(value, dict) else re.sub("(?<=//)[^/@]*(?=@)|(?<=password=)[^&']*", "…", f" (got {value!r})")
    )
    return f"{path}: {message}{shown}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Application
    for part in location:
        if isinstance(part, int):
            continue
        model = model.model_fields[part].annotation
        while not (isinstance(model, type) and issubclass(model, BaseModel)):
            model = model.__args__[0]
    return list(model.model_fields)
