"""Tasks as codes: what rows of several definitions are matched by."""

import numpy as np
import pyarrow as pa

from limaml.data.features import hash_texts
from limaml.data.task_ids import distinct_tasks, task_codes, task_texts
from limaml.schema import stored_id, task_id

MEMBER = pa.array([7, 7, -1, 7, 300], pa.int64())
KIND = pa.array(["a|b", "a", "a", "a|b", "\\\\:"], pa.string())


def test_a_code_is_the_hash_of_the_canonical_text() -> None:
    texts = [task_id(*pair) for pair in zip(MEMBER.to_pylist(), KIND.to_pylist(), strict=True)]
    np.testing.assert_array_equal(task_codes([MEMBER, KIND]), hash_texts(pa.array(texts)))
    np.testing.assert_array_equal(task_codes([MEMBER]), hash_texts(pa.array(["7", "7", "-1", "7", "300"])))
    np.testing.assert_array_equal(
        task_codes([MEMBER, KIND.dictionary_encode().cast(pa.string())]), task_codes([MEMBER, KIND])
    )


def test_distinct_tasks_are_found_again() -> None:
    first, task_of_row = distinct_tasks([MEMBER, KIND])
    assert len(first) == 4
    texts = task_texts([MEMBER, KIND]).to_pylist()
    assert [texts[row] for row in first[task_of_row]] == texts


def test_keys_of_different_definitions_never_meet() -> None:
    """Even where a task's own text looks like another definition's key."""
    ids = ["kind\\:42", "kind:42", "kind\\", "kind", "42"]
    keys = [stored_id("", task_id(text)) for text in ids] + [stored_id("kind", task_id(text)) for text in ids]
    assert len(set(keys)) == len(keys)
