"""Tasks no gradient or AUC is made for: one class only, one sample, all samples in support, none in support."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from limaml import storage
from limaml.data.embedding_files import EmbeddingFiles
from limaml.data.tasks import TaskSet
from limaml.errors import DataError
from limaml.online.embeddings import generate_embeddings
from limaml.training.gate import judge
from limaml.training.train import train_model
from tests.limaml.training.planted import APPLICATION, AS_OF, group_all, interactions

ALWAYS, NEVER, ONCE = 10_000, 10_010, 10_020


def _log() -> pa.Table:
    """Ten members more who always click, ten who never do, and one with a single row before the test days."""
    log = interactions(members=40)
    always = log.filter(pa.array(log["member_id"].to_numpy() < 10))
    odd = [
        always.set_column(0, "member_id", pa.array(always["member_id"].to_numpy() + base)).set_column(
            log.schema.get_field_index("label"), "label", pa.array(np.full(len(always), label, np.int8))
        )
        for base, label in ((ALWAYS, 1), (NEVER, 0))
    ]
    once = log.slice(0, 1).set_column(0, "member_id", pa.array([ONCE]))
    rows = pa.concat_tables([log, *odd, once])
    return rows.set_column(2, "impression_id", pa.array(np.arange(len(rows))))


@pytest.mark.parametrize("inner_loss", ["mean", "shrunk"])
def test_odd_tasks_train_embed_and_are_judged(tmp_path: Path, inner_loss: str) -> None:
    training = APPLICATION.training.model_copy(update={"epochs": 1, "inner_loss": inner_loss})
    application = APPLICATION.model_copy(update={"training": training})
    sets = group_all(tmp_path, application, _log())
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    model = train_model(sets.train, sets.validation, str(tmp_path / "model"), application, tracking, AS_OF)
    assert all(0 <= value <= 1 for value in model.details["validation_auc"].values())

    uri = model.details["uri"]
    made = generate_embeddings(uri, sets.test, str(tmp_path / "embeddings"), application, AS_OF)
    files = EmbeddingFiles(str(tmp_path / "embeddings"))
    ids = [name for batch in TaskSet.open(sets.test).batches(64) for name in batch.support_only().task_ids]
    assert made.counts["tasks"] == len(ids) == files.tasks
    assert {str(ALWAYS), str(NEVER)} <= set(ids)
    assert any(str(ONCE) in batch.task_ids for batch in TaskSet.open(sets.train).batches(64))

    decision = judge(
        uri, str(tmp_path / "embeddings"), sets.validation, sets.test, str(tmp_path / "decision"), application,
        tracking, AS_OF, raise_on_refusal=False,
    )  # fmt: skip
    for row in decision.details["table"]:
        for name in ("auc", "gauc", "log_loss"):
            assert row[name] is None or math.isfinite(row[name]), row


def test_validation_rows_of_one_class_are_refused_in_words(tmp_path: Path) -> None:
    log = interactions(members=20)
    index = log.schema.get_field_index("label")
    log = log.set_column(index, "label", pa.array(np.zeros(len(log), np.int8)))
    sets = group_all(tmp_path, log=log)
    with pytest.raises(DataError, match=r"validation rows of .*/validation hold one class only: widen"):
        train_model(
            sets.train, sets.validation, str(tmp_path / "model"), APPLICATION, f"sqlite:///{tmp_path}/mlflow.db", AS_OF
        )
    assert storage.list_directories(str(tmp_path / "model")) == []
