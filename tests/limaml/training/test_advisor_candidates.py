"""Which key tuples are looked at, and the arithmetic of sizes and cost."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from limaml.config import load_application
from limaml.errors import ConfigError
from limaml.training.advisor_candidates import cost, given, proposed, prune, sizes
from limaml.training.advisor_options import Options
from tests.limaml.training import planted_tasks as world

APPLICATION = world.planted_application()
COLUMNS = {
    "event_time": pa.timestamp("us", "UTC"),
    "label": pa.int8(),
    "member_id": pa.int64(),
    "item_id": pa.int64(),
    "type": pa.string(),
    "member_x": pa.float64(),
}


def test_proposals_are_keys_member_item_and_member_by_kind() -> None:
    assert proposed(APPLICATION, COLUMNS) == [world.MEMBER, world.ITEM, world.MEMBER_TYPE]
    both = load_application("pclick_user_type")
    columns = {name: pa.int64() for name in ("member_id", "item_id", "notification_type")}
    names = [one.name for one in proposed(both, columns)]
    assert names == ["(member_id, notification_type)", "(member_id)", "(item_id)"]


def test_a_kind_that_cannot_be_a_key_is_not_proposed() -> None:
    assert proposed(APPLICATION, COLUMNS | {"type": pa.float64()}) == [world.MEMBER, world.ITEM]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("member_id", "shoe_size"), "no column 'shoe_size' in the log; it has event_time"),
        (("member_id", "member_id"), "distinct column names"),
        (("",), "distinct column names"),
        (("label",), "'label' .* can't be a task key"),
        (("member_x",), r"'member_x' \(double\) can't be a task key"),
    ],
)
def test_odd_keys_are_refused(keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        given(APPLICATION, COLUMNS, [keys])


def test_keys_in_another_order_are_one_candidate() -> None:
    found = given(APPLICATION, COLUMNS, [("type", "member_id"), ("member_id", "type"), ("type",)])
    assert [(one.keys, one.entity) for one in found] == [(("type", "member_id"), "member_id"), (("type",), "type")]
    sample = world.planted_sample(0, world.nothing)
    np.testing.assert_array_equal(found[0].tasks(sample), world.MEMBER_TYPE.tasks(sample))
    assert found[0].refines(world.MEMBER)
    assert not world.MEMBER.refines(found[0])


def test_a_proposal_has_to_split_members_into_a_few_kinds() -> None:
    sample = world.planted_sample(0, world.nothing)
    candidates = proposed(APPLICATION, COLUMNS)

    def kept(**changed: object) -> list[str]:
        return [one.name for one in prune(candidates, APPLICATION, replace(sample, **changed))]

    everything = ["(member_id)", "(item_id)", "(member_id, type)"]
    assert kept() == everything
    assert kept(null_share={"type": 0.005}) == everything  # validation would quarantine as much
    assert kept(null_share={"type": 0.02}) == everything[:2]
    assert kept(keys=sample.keys | {"type": sample.keys["item_id"]}) == everything[:2]  # 400 values
    assert kept(keys=sample.keys | {"type": sample.keys["member_id"] % np.uint64(5)}) == everything[:2]


def test_sizes_and_cost_by_hand() -> None:
    task = np.repeat([0, 1, 2, 3], [1, 5, 6, 100])
    found = sizes(task, 0.5)
    assert (found.tasks, found.median_samples, found.share_under_6, found.share_under_25) == (8, 5.5, 0.5, 0.75)
    application = load_application("pclick_user")  # 64 samples a task, D = 16 and a bias in float16, 14 days each
    day = np.where(task == 0, 0, 20)
    bill = cost(task, day, 0.5, application, Options(tasks_per_second=3.0))
    assert bill.tasks_to_store == 6
    assert bill.store_bytes == 6 * (17 * 2 + 12)
    assert bill.generation_core_seconds == 2.0
    assert (bill.training_tasks, bill.training_rows, bill.steps_per_epoch) == (6, 2 * (5 + 6 + 64), 1)
