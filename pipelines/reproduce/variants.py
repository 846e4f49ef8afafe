"""The algorithms the tables compare: each is a change of one application's configuration, and what is scored of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from limaml.config import Application, parse_application
from limaml.training import evaluation

Role = Literal["vanilla", "vanilla_finetuned", "vanilla_intercept", "served", "unadapted"]
BASELINES: tuple[Role, ...] = ("vanilla", "vanilla_intercept", "vanilla_finetuned")

# α of inner loops that move whole blocks, whose gradients are sums over many weights.
BLOCK_LEARNING_RATE = 0.1
ID_VOCABULARY, ID_WIDTH = 100_000, 16

MAML, MAML_UNADAPTED = "maml", "maml_unadapted"
PAPER_FORM, PAPER_FORM_UNADAPTED = "limaml_paper_form", "limaml_paper_form_unadapted"
WIDE_DEEP_ID, LIMAML_ID = "wide_deep_id", "limaml_id"
LIMAML_MLP, LIMAML_TRANSFORMER = "limaml_mlp", "limaml_transformer"


@dataclass(frozen=True)
class Output:
    """One algorithm of a table: what of a trained variant is scored, and its name.

    `embeddings` are steps (k) and pooling at generation, where they differ from the application's.
    """

    name: str
    title: str
    role: Role
    embeddings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One training run of an application changed in one respect, and the algorithms it gives."""

    name: str
    outputs: tuple[Output, ...]
    change: Callable[[Application], Application]

    def of(self, application: Application) -> Application:
        """The changed application, under a name of its own where its task sets differ."""
        changed = self.change(application)
        same = ("task", "features", "data")
        if all(getattr(changed, section) == getattr(application, section) for section in same):
            return changed
        return changed.model_copy(update={"name": f"{application.name}__{self.name}"})

    @property
    def needs_vanilla(self) -> bool:
        """Whether a vanilla network is scored."""
        return any(output.role in BASELINES for output in self.outputs)

    @property
    def needs_limaml(self) -> bool:
        """Whether a network trained with an inner loop is scored."""
        return any(output.role not in BASELINES for output in self.outputs)


def changed(application: Application, **sections: Mapping[str, Any]) -> Application:
    """An application with fields of its sections changed, validated anew."""
    content = application.model_dump(mode="json")
    for name, values in sections.items():
        content[name] |= values
    return parse_application(content, f"{application.name}, changed")


def setting(**sections: Mapping[str, Any]) -> Callable[[Application], Application]:
    """A change of fields, whatever the application."""
    return lambda application: changed(application, **sections)


def unchanged(application: Application) -> Application:
    """The application itself."""
    return application


BASE = Variant(
    "limaml",
    (
        Output(evaluation.VANILLA, "vanilla", "vanilla"),
        Output(evaluation.INTERCEPT, "vanilla + one intercept per task", "vanilla_intercept"),
        Output(evaluation.VANILLA_FINETUNED, "vanilla, fine-tuned per task", "vanilla_finetuned"),
        Output(evaluation.LIMAML, "LiMAML, as served", "served"),
        Output(evaluation.LIMAML_UNADAPTED, "LiMAML, not adapted", "unadapted"),
    ),
    unchanged,
)

MAML_WHOLE = Variant(
    "maml",
    (
        Output(MAML, "entire-network MAML, fine-tuned", "served"),
        Output(MAML_UNADAPTED, "entire-network MAML, not adapted", "unadapted"),
    ),
    setting(
        network={"adapted": "network", "meta_block": "mlp"},
        training={"task_learning_rate": BLOCK_LEARNING_RATE, "bias_step": "gradient", "base": "joint"},
    ),
)

# Alg. 2 as printed, on the application's network: the whole meta block moves by plain SGD on the mean loss, θ_global's
# gradient is direct, and nothing keeps the un-adapted network good.
PAPER = Variant(
    "paper_form",
    (
        Output(PAPER_FORM, "LiMAML as printed, as served", "served"),
        Output(PAPER_FORM_UNADAPTED, "LiMAML as printed, not adapted", "unadapted"),
    ),
    setting(
        network={"adapted": "meta_block", "meta_block": "mlp"},
        training={
            "inner_steps": 1,
            "inner_loss": "mean",
            "task_learning_rate": BLOCK_LEARNING_RATE,
            "learned_task_learning_rate": False,
            "bias_step": "gradient",
            "support_split": "fraction",
            "global_gradient": "direct",
            "support_drop": 0.0,
            "unadapted_loss_weight": 0.0,
            "base": "joint",
        },
        embeddings={"finetune_steps": 1, "pooling": "latest"},
    ),
)


def with_ids(application: Application) -> Application:
    """The task's key columns as meta features: ID embeddings, as in wide and deep, or in LiMAML's meta block."""
    meta = application.model_dump(mode="json")["features"]["meta"]
    known = {feature.name for feature in application.features.all}
    ids = [
        {"name": key, "kind": "categorical", "vocabulary": ID_VOCABULARY, "width": ID_WIDTH}
        for key in application.task.keys
        if key not in known
    ]
    return changed(application, features={"meta": meta + ids})


IDS = Variant(
    "ids",
    (
        Output(WIDE_DEEP_ID, "wide and deep, ID embeddings", "vanilla"),
        Output(LIMAML_ID, "LiMAML, ID embeddings in the meta block", "served"),
    ),
    with_ids,
)

META_BLOCKS = (
    Variant(
        "mlp",
        (Output(LIMAML_MLP, "LiMAML, MLP of the meta features alone", "served"),),
        setting(network={"meta_block": "mlp"}),
    ),
    Variant(
        "transformer",
        (Output(LIMAML_TRANSFORMER, "LiMAML, transformer over the task's samples", "served"),),
        setting(network={"meta_block": "transformer"}),
    ),
)


def pooled() -> Variant:
    """The application's own θ, its stored embedding made from the task's samples in each of the ways."""
    ways = ("latest", "mean", "max", "cosine")
    outputs = tuple(Output(f"limaml_{way}", f"LiMAML, embedding by {way}", "served", {"pooling": way}) for way in ways)
    return Variant("limaml", outputs, unchanged)


def inner_steps(n: int, k: tuple[int, ...]) -> Variant:
    """n inner steps in training, and k steps at generation for each k."""
    outputs = tuple(
        Output(f"limaml_n{n}_k{each}", f"LiMAML, n = {n}, k = {each}", "served", {"finetune_steps": each}) for each in k
    )
    return Variant(f"n{n}", outputs, setting(training={"inner_steps": n}))


def ablation(name: str, title: str, **sections: Mapping[str, Any]) -> Variant:
    """The application with one of its choices made otherwise."""
    output = Output(f"limaml_{name}", f"LiMAML, {title}", "served")
    return Variant(name, (output, Output(f"{output.name}_unadapted", f"{output.title}, not adapted", "unadapted")),
                   setting(**sections))  # fmt: skip


ABLATIONS = (
    ablation("first_order", "first-order outer gradient", training={"meta_gradient": "first_order"}),
    ablation("direct", "direct gradient of θ_global", training={"global_gradient": "direct"}),
    ablation("fraction", "support by fraction, not by day", training={"support_split": "fraction"}),
    ablation("support_drop", "a tenth of the support sets dropped", training={"support_drop": 0.1}),
    ablation("no_support_drop", "no dropped support sets", training={"support_drop": 0.0}),
    ablation("no_unadapted_loss", "no un-adapted loss", training={"unadapted_loss_weight": 0.0}),
    ablation("joint", "both blocks learned together", training={"base": "joint"}),
    ablation("frozen", "on a frozen vanilla network", training={"base": "frozen"}),
    ablation("mlp", "samples not read", network={"meta_block": "mlp"}),
    ablation("deep_sets", "samples read as a set", network={"meta_block": "deep_sets"}),
    ablation("no_item_product", "no product with the item", network={"item_product": False}),
    ablation("no_bias_gate", "no gate before the bias", network={"bias_gate": False}),
    ablation("bias_by_gradient", "the bias moved by gradient", training={"bias_step": "gradient"}),
    ablation(
        "no_adapted_bias",
        "no adapted bias",
        network={"adapted_bias": False, "bias_gate": False},
        training={"bias_step": "gradient"},
    ),
    ablation("mean_loss", "inner loss by mean", training={"inner_loss": "mean"}),
    ablation("fixed_rate", "task learning rate fixed", training={"learned_task_learning_rate": False}),
    ablation(
        "meta_block",
        "the whole meta block adapted",
        network={"adapted": "meta_block"},
        training={"task_learning_rate": BLOCK_LEARNING_RATE, "bias_step": "gradient", "base": "joint"},
    ),
)
