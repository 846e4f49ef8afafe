"""Raw feature arrays → the vectors both blocks read. Statistics come from the training window only."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FeatureStatistics:
    """What standardizing needs, per numeric feature, and the vocabulary of each categorical one.

    Attributes:
        log: numeric features on a signed log scale.
        mean: mean after the log, nulls left out.
        scale: standard deviation after the log, 1 where a feature is constant.
        nullable: numeric features that had nulls, which get an indicator.
        vocabulary: per categorical feature, its kept codes, ascending.
    """

    log: list[bool]
    mean: list[float]
    scale: list[float]
    nullable: list[bool]
    vocabulary: list[list[int]]

    def beside(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """These features, then the other ones."""
        return FeatureStatistics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def of(self, numeric: Sequence[int], category: Sequence[int]) -> "FeatureStatistics":
        """Those of some features, numeric and categorical ones by their places."""
        numbers = [[values[place] for place in numeric] for values in (self.log, self.mean, self.scale, self.nullable)]
        return FeatureStatistics(*numbers, [self.vocabulary[place] for place in category])  # type: ignore[arg-type]


def fit_statistics(
    batches: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
    log: Sequence[bool],
    vocabulary_sizes: Sequence[int],
) -> FeatureStatistics:
    """One streaming pass over (numeric [R, n], category [R, c]) arrays.

    The vocabulary keeps the most frequent codes, ties by code, so that the order of batches does not matter. Memory
    holds a counter for every distinct code.
    """
    log_n = np.asarray(log, dtype=bool)
    count, mean, spread = (np.zeros(len(log_n)) for _ in range(3))
    nulls = np.zeros(len(log_n), dtype=np.int64)
    counters: list[Counter[int]] = [Counter() for _ in vocabulary_sizes]
    for numeric, category in batches:
        value = _signed_log(numeric.astype(np.float64), log_n)
        seen = ~np.isnan(value)
        # Batches are merged by their own means and squared deviations, which keeps far-from-zero features exact.
        here = seen.sum(0)
        here_mean = np.where(seen, value, 0.0).sum(0) / np.maximum(here, 1)
        shift = np.where(here > 0, here_mean - mean, 0.0)
        spread += (np.where(seen, value - here_mean, 0.0) ** 2).sum(0)
        spread += shift**2 * count * here / np.maximum(count + here, 1)
        mean += shift * here / np.maximum(count + here, 1)
        count += here
        nulls += (~seen).sum(0)
        for column, counter in enumerate(counters):
            codes, times = np.unique(category[:, column], return_counts=True)
            counter.update(dict(zip(codes.tolist(), times.tolist(), strict=True)))
    deviation = np.sqrt(spread / np.maximum(count, 1))
    # What is left of rounding is not a spread.
    scale = np.where(deviation > 1e-9 * (1.0 + np.abs(mean)), deviation, 1.0)
    vocabulary = []
    for counter, size in zip(counters, vocabulary_sizes, strict=True):
        counter.pop(0, None)
        frequent = sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:size]
        vocabulary.append(sorted(code for code, _ in frequent))
    return FeatureStatistics(log_n.tolist(), mean.tolist(), scale.tolist(), (nulls > 0).tolist(), vocabulary)


def _signed_log(value: npt.NDArray[np.float64], log_n: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.where(log_n, np.sign(value) * np.log1p(np.abs(value)), value)


class FeatureEncoder(nn.Module):
    """Standardized numeric features, indicators of nulls, and a learned vector per categorical value.

    Standardized values are clipped to ±10, so that one wild value can't carry an inner step away. Vector 0 of each
    categorical feature stands for null and for every value outside the vocabulary.
    """

    log: Tensor
    mean: Tensor
    scale: Tensor
    nullable: Tensor

    def __init__(self, statistics: FeatureStatistics, category_widths: Sequence[int]) -> None:
        super().__init__()
        log = [i for i, is_log in enumerate(statistics.log) if is_log]
        self.register_buffer("log", torch.tensor(log, dtype=torch.int64), persistent=False)
        self.register_buffer("mean", torch.tensor(statistics.mean, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(statistics.scale, dtype=torch.float32), persistent=False)
        nullable = [i for i, has_nulls in enumerate(statistics.nullable) if has_nulls]
        self.register_buffer("nullable", torch.tensor(nullable, dtype=torch.int64), persistent=False)
        for column, codes in enumerate(statistics.vocabulary):
            # searchsorted needs a value to find: an empty vocabulary keeps one code no hash can have.
            known = torch.tensor(codes or [-1], dtype=torch.int64)
            self.register_buffer(f"codes_{column}", known, persistent=False)
        sizes = [len(codes) + 1 for codes in statistics.vocabulary]
        widths = [min(width, size) for width, size in zip(category_widths, sizes, strict=True)]
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size, width in zip(sizes, widths, strict=True))
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.3)  # type: ignore[arg-type]
        self.width = len(statistics.log) + len(nullable) + sum(widths) or 1

    def forward(self, numeric: Tensor, category: Tensor) -> Tensor:
        """[R, n] and [R, c] raw → [R, width]; a constant where there are no features."""
        return self.of_places(numeric, self.places(category))

    def places(self, category: Tensor) -> Tensor:
        """[R, c] which vector each code's value has."""
        places = category.clone()
        for column in range(len(self.tables)):
            codes = getattr(self, f"codes_{column}")
            place = torch.searchsorted(codes, category[:, column].contiguous()).clamp(max=len(codes) - 1)
            known = codes[place] == category[:, column]
            places[:, column] = torch.where(known, place + 1, 0)
        return places

    def of_places(self, numeric: Tensor, place: Tensor) -> Tensor:
        """As `forward`, from the places of codes."""
        if not numeric.shape[1] and not len(self.tables):
            return numeric.new_ones(numeric.shape[0], 1)
        value = numeric - self.mean
        if len(self.log):
            raw = numeric[:, self.log]
            value[:, self.log] = raw.sign() * raw.abs().log1p() - self.mean[self.log]
        # Nulls before the clip: what a clip makes of NaN differs between engines.
        parts = [value.div_(self.scale).nan_to_num_(0.0).clamp_(-10, 10)]
        if len(self.nullable):
            parts.append(numeric[:, self.nullable].isnan().to(numeric.dtype))
        parts += [table(place[:, column]) for column, table in enumerate(self.tables)]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
