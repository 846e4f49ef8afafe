"""One seed's figures: the stages of a training run for every variant of an application, all scored on the same rows."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from limaml.config import Application
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.tasks import TaskSet
from limaml.training import evaluation, slices
from limaml.training.evaluation import Scored, Scorer
from limaml.training.metrics import Metrics
from limaml.windows import TaskSplit, training_splits, training_window
from pipelines.reproduce.logs import Log
from pipelines.reproduce.variants import BASELINES, Variant, changed

log = logging.getLogger(__name__)

Figures = dict[tuple[str, str], Metrics]  # (slice, algorithm) → metrics


@dataclass(frozen=True)
class Bench:
    """The task sets of one application on one log, and what is trained, generated and scored on them.

    Every step is a stage, so whatever an earlier table or a killed run has finished is not made again.
    """

    log: Log
    application: Application

    @cached_property
    def splits(self) -> dict[str, TaskSplit]:
        """The task sets of a training run."""
        return training_splits(self.application.windows, self.log.as_of)

    @cached_property
    def validated(self) -> str:
        """URI of the validated window, all the days a training run reads."""
        from limaml.data.validation import validate

        window = training_window(self.application.windows, self.log.as_of)
        output = self.log.place(self.application).validated(window)
        validate(self.log.data, output, self.application, window)
        return output

    def tasks(self, split: TaskSplit) -> str:
        """URI of a split's task set, grouped if it is not there yet."""
        from limaml.data.tasks import group_tasks

        output = self.log.place(self.application).tasks(split)
        group_tasks(self.validated, output, self.application, split)
        return output

    def trained(self, variant: Variant, application: Application) -> dict[str, Any]:
        """The model of a variant, `application`, which reads this bench's task sets; its manifest's details.

        Variants that change nothing before generation share one model, and their vanilla network is everybody's.
        """
        from limaml.training.train import ALGORITHMS, train_model

        both = application == self.application
        wanted = {"vanilla": both or variant.needs_vanilla, "limaml": both or variant.needs_limaml}
        place = self.log.place(application)
        return train_model(
            self.tasks(self.splits["train"]),
            self.tasks(self.splits["validation"]),
            place.model(""),
            changed(application, training={"seed": self.log.seed}),
            self.log.tracking,
            self.log.as_of,
            tuple(algorithm for algorithm in ALGORITHMS if wanted[algorithm]),
        ).details

    def embeddings(self, model: Mapping[str, Any], split: TaskSplit, application: Application) -> EmbeddingFiles:
        """A model's embeddings as of a split's boundary; the application decides steps and pooling."""
        from limaml.online.embeddings import generate_embeddings

        assert split.boundary is not None, "embeddings are made for the split's boundary"
        options = application.embeddings
        made = self.log.place(application).embeddings(model["model_version"], split.boundary)
        output = f"{made}_{options.finetune_steps}-steps_{options.pooling}"
        generate_embeddings(model["uri"], self.tasks(split), output, application, split.boundary)
        return EmbeddingFiles(output)

    def scorers(self, variant: Variant, application: Application, split: TaskSplit) -> dict[str, Scorer]:
        """Train a variant and bind its algorithms."""
        from limaml.model import load_model

        model = self.trained(variant, application)
        scorers: dict[str, Scorer] = {}
        if variant.needs_vanilla:
            vanilla = load_model(model["uri"], application, algorithm="vanilla")
            scorers |= self._baselines(vanilla, variant)
        if variant.needs_limaml:
            limaml = load_model(model["uri"], application)
            for output in variant.outputs:
                if output.role == "unadapted":
                    scorers[output.name] = evaluation.unadapted(limaml)
                elif output.role == "served" and application.network.adapted == "network":
                    scorers[output.name] = evaluation.served_alive(limaml)
                elif output.role == "served":
                    generating = changed(application, embeddings=output.embeddings)
                    files = self.embeddings(model, split, generating)
                    scorers[output.name] = evaluation.served(limaml, files, application.store.dtype)
        return scorers

    def _baselines(self, vanilla: Any, variant: Variant) -> dict[str, Scorer]:
        wanted = {output.role: output.name for output in variant.outputs if output.role in BASELINES}
        if set(wanted) == {"vanilla"}:
            return {wanted["vanilla"]: evaluation.unadapted(vanilla)}
        steps = self.application.embeddings.finetune_steps
        tuned = evaluation.tune_controls(vanilla, TaskSet.open(self.tasks(self.splits["validation"])), steps)
        found = evaluation.baselines(vanilla, tuned, steps)
        return {name: found[role] for role, name in wanted.items()}

    def score(self, scorers: Mapping[str, Scorer], split: TaskSplit) -> Scored:
        """Score a split's query rows; with the truth, where the log has it."""
        from limaml.training.truth import truth_of

        truth = truth_of(self.application, self.log.data, split)
        best = {} if truth is None else {evaluation.BEST_POSSIBLE: evaluation.truth_scorer(truth)}
        return evaluation.score_rows(TaskSet.open(self.tasks(split)), {**scorers, **best})

    def figures(self, scored: Scored, split: TaskSplit) -> Figures:
        """Metrics of every algorithm on every slice, cohorts included where the log has visits."""
        from limaml.data.member_cohorts import cohorts_of_tasks

        before = split.boundary_time or split.window.start_time
        cohorts = cohorts_of_tasks(self.application, scored.task_ids, self.log.data, before)
        return {
            (name, algorithm): metrics
            for name, by_algorithm in slices.measure(scored, cohorts).items()
            for algorithm, metrics in by_algorithm.items()
        }


def measure(seed_log: Log, application: Application, variants: Iterable[Variant]) -> Figures:
    """Every algorithm of every variant on the test rows of one seed.

    Variants that read other features have task sets of their own; the rows scored are the same.
    """
    benches: dict[str, Bench] = {}
    scorers: dict[str, dict[str, Scorer]] = {}
    for variant in variants:
        varied = variant.of(application)
        shares = varied.name == application.name
        bench = benches.setdefault(varied.name, Bench(seed_log, application if shares else varied))
        log.info("seed %d: %s", seed_log.seed, variant.name)
        scorers.setdefault(varied.name, {}).update(bench.scorers(variant, varied, bench.splits["test"]))
    figures: Figures = {}
    for name, bench in benches.items():
        test = bench.splits["test"]
        figures |= bench.figures(bench.score(scorers[name], test), test)
    return figures
