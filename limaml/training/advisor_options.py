"""What a user of the advisor can set; light to import, since the command shows the defaults in its help."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How to look, and what counts.

    Attributes:
        rows: about how many rows to keep in memory, per entity column that candidates are sampled by.
        seed: of the sample, where one is drawn, and of the features-only model.
        minimum_gain: relative AUC gain below which a definition is not worth its cost. The default lies between the
            paper's +0.01 % (pClick per user, not worth it) and +0.47 % (per user and type, worth it).
        tasks_per_second: assumed speed of embedding generation, per core. The default is what docs/benchmarks.md has
            for generation from parquet to parquet, default network, k = 3, 32 rows a task.
        step_over_vanilla: assumed time of an outer training step over a vanilla step on the same rows, from
            the same page.
    """

    rows: int = 300_000
    seed: int = 0
    minimum_gain: float = 0.001
    tasks_per_second: float = 6000.0
    step_over_vanilla: float = 2.5
