"""A chain whose embeddings are published: what scoring and the service are tested on."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from limaml.online.embeddings import generate_embeddings
from limaml.online.release import publish
from limaml.online.store import Release
from tests.limaml.online.chain import AS_OF, Chain, with_embeddings, write_model
from tests.limaml.online.conftest import Files


class Served:
    """A chain whose embeddings are published."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        self.chain, self.application, self.folder = chain, chain.application, folder
        self.url = f"lmdb://{folder}/store"
        self.files = Files(folder, chain.application)
        self.embeddings, self.release = self.publish(chain.model, "first")

    def publish(self, model: str, name: str, **changes) -> tuple[str, Release]:
        application = with_embeddings(self.application, **changes)
        uri = str(self.folder / name)
        generate_embeddings(model, self.chain.tasks, uri, application, AS_OF)
        return uri, publish(uri, self.url, application, self.files.decision(uri))

    def publish_model(self, version: str) -> Release:
        """Another model of random weights, released."""
        model = write_model(self.folder, version, self.application, self.chain.rows)
        return self.publish(model, f"embeddings-{version}")[1]

    def candidates(self, rows: int = 200) -> pa.Table:
        """Rows of the log as requests: members 50 to 59 have no embedding."""
        chosen = np.linspace(0, len(self.chain.rows) - 1, rows).astype(np.int64)
        return self.chain.rows.take(pa.array(chosen)).drop_columns(["label", "event_time"])
