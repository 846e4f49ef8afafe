"""Requests of plain values, as JSON brings them, into the arrays that a table of the same values would give.

Without Arrow: for a handful of rows it would cost more than the score. Shapes: R rows, one candidate each.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from limaml.config import Application, Feature
from limaml.data.features import plain_codes
from limaml.errors import DataError
from limaml.online.requests import Candidates, Tasks, has_meta, infinite, informative, require
from limaml.schema import stored_id, task_id

_NUMBERS = {int, float, bool, type(None)}
_CATEGORIES = {str, *_NUMBERS}
_KEYS = {int, str}
_EXACT_INTEGERS = 2.0**53
_LARGEST_KEY = 2**63
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Columns:
    """R rows by column: lists of R plain values, or of one that all rows share."""

    rows: int
    values: Mapping[str, list[Any]]


class Encoder:
    """Turns columns of plain values into candidates of one application; made once, used for every request."""

    def __init__(self, application: Application) -> None:
        self._application = application
        features = application.features
        self._definitions = list(zip(application.definition_names, application.definitions, strict=True))
        self._describing = frozenset(informative(application, application.task))
        self._meta = len(_of_kind(features.meta, "numeric")), len(_of_kind(features.meta, "categorical"))
        # By whether meta features are there.
        self._numeric = _of_kind(features.other, "numeric"), _of_kind(features.all, "numeric")
        self._categorical = _of_kind(features.other, "categorical"), _of_kind(features.all, "categorical")

    def candidates(self, columns: Columns, keyed: bool = True) -> Candidates:
        """The candidates of a request; `keyed` says whether their tasks are asked for.

        Values are numbers, strings, booleans or None. Other columns than keys and features are ignored.

        Raises:
            DataError: a column is missing, a value is of a wrong type, a key is null, a feature is infinite.
        """
        values = columns.values
        described = self._described(values)
        tasks = tuple(_tasks(name, each.keys, columns) for name, each in self._definitions) if keyed else ()
        numeric, categorical = self._numeric[described], self._categorical[described]
        for names in (numeric, categorical):
            require(names, values, "feature column")
        numbers, codes = _numbers(numeric, columns), _codes(categorical, columns)
        if not described:
            return Candidates(columns.rows, tasks, (numbers, codes), None)
        n, c = self._meta
        return Candidates(columns.rows, tasks, (numbers[:, n:], codes[:, c:]), (numbers[:, :n], codes[:, :c]))

    def _described(self, values: Mapping[str, list[Any]]) -> bool:
        if self._describing <= values.keys():
            return True
        return has_meta(self._application, list(values))


def _of_kind(features: Sequence[Feature], kind: str) -> list[str]:
    return [feature.name for feature in features if feature.kind == kind]


def _tasks(definition: str, keys: Sequence[str], columns: Columns) -> Tasks:
    require(keys, columns.values, "task key column")
    values = [columns.values[name] for name in keys]
    for name, column in zip(keys, values, strict=True):
        _check_key(name, column)
    if all(len(column) == 1 for column in values):
        text = task_id(*(column[0] for column in values))
        return Tasks([stored_id(definition, text)], np.zeros(columns.rows, np.intp))
    rows = zip(*(column if len(column) == columns.rows else column * columns.rows for column in values), strict=True)
    place: dict[str, int] = {}
    of_row = [place.setdefault(task_id(*row), len(place)) for row in rows]
    return Tasks([stored_id(definition, text) for text in place], np.array(of_row, np.intp))


def _check_key(name: str, column: list[Any]) -> None:
    if set(map(type, column)) <= _KEYS:
        for row, value in enumerate(column):
            if type(value) is int and not -_LARGEST_KEY <= value < _LARGEST_KEY:
                raise DataError(f"column {name}, row {row}: a task key must be below 2^63, not {value}")
        return
    if None in column:
        raise DataError(f"column {name}, row {column.index(None)}: null in a task key; every row needs its task")
    _wrong(name, column, _KEYS, "a task key must be a string or an integer")


def _codes(names: list[str], columns: Columns) -> npt.NDArray[np.int64]:
    codes = np.empty((columns.rows, len(names)), np.int64)
    for place, name in enumerate(names):
        column = columns.values[name]
        if not set(map(type, column)) <= _CATEGORIES:
            _wrong(name, column, _CATEGORIES, "a categorical feature must be a string, a number, true, false or null")
        codes[:, place] = plain_codes(column)
    return codes


def _numbers(names: list[str], columns: Columns) -> npt.NDArray[np.float32]:
    matrix = np.empty((columns.rows, len(names)), np.float32)
    # Neighbours of one length are one conversion, however many columns there are: what all rows share, what they don't.
    place = 0
    for _, group in groupby(names, lambda name: len(columns.values[name])):
        chosen = list(group)
        matrix[:, place : place + len(chosen)] = _floats(chosen, [columns.values[name] for name in chosen])
        place += len(chosen)
    return matrix


def _floats(names: list[str], values: list[list[Any]]) -> npt.NDArray[np.float32]:
    """[length, n] of n columns of one length, each number rounded once."""
    flat = list(chain.from_iterable(values))
    try:
        exact = np.asarray(array("d", flat))  # which takes numbers and nothing else
    except (TypeError, OverflowError):
        if not set(map(type, flat)) <= _NUMBERS:
            for name, column in zip(names, values, strict=True):
                _wrong(name, column, _NUMBERS, "a numeric feature must be a number, true, false or null")
        exact = np.array(flat, np.float64)
    with np.errstate(over="ignore"):
        numbers = exact.astype(np.float32)
    large = np.abs(exact) > _EXACT_INTEGERS
    if large.any():
        for place in np.flatnonzero(large).tolist():
            if type(flat[place]) is int:
                numbers[place] = _rounded_once(flat[place])
            if np.isinf(numbers[place]):
                column, row = divmod(place, len(values[0]))
                raise infinite(names[column], row)
    return numbers.reshape(len(names), -1).T


def _rounded_once(number: int) -> np.float32:
    """An integer that float64 can't hold exactly, by the rounding that an integer column gets."""
    return np.array([number], np.int64 if number < _LARGEST_KEY else np.uint64).astype(np.float32)[0]


def _wrong(name: str, column: list[Any], allowed: set[type], rule: str) -> None:
    for row, value in enumerate(column):
        if type(value) not in allowed:
            raise DataError(f"column {name}, row {row}: {rule}, not {shown(value)}")


def shown(value: Any) -> str:
    """A value as an error shows it: whatever was sent, but not all of it."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
