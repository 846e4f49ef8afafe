"""A store whose reads fail when told to: the fault at the edge, around a real store."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from limaml.errors import StoreError
from limaml.online.records import Records
from limaml.online.store import Layer, Store


class FaultyStore:
    """Passes everything on to a real store; `fail`, `hang` and `between` are what reads meet on the way.

    Attributes:
        fail: reads raise StoreError.
        hang: reads wait until it is set.
        between: called within a read, after the store has answered.
        reads: how often was asked.
    """

    def __init__(self, store: Store, url: str = "") -> None:
        self._store = store
        self.url = url or store.url
        self.fail = False
        self.hang: threading.Event | None = None
        self.between: Callable[[], None] | None = None
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open(self, name: str) -> Layer:
        return _FaultyLayer(self, self._store.open(name))


class _FaultyLayer:
    def __init__(self, store: FaultyStore, layer: Layer) -> None:
        self._faults = store
        self._layer = layer
        self.generation = layer.generation

    def get(self, task_ids: Sequence[str]) -> Records:
        self._faults.reads += 1
        if self._faults.hang is not None:
            self._faults.hang.wait(10)
        if self._faults.fail:
            raise StoreError(f"can't read {task_ids}: the disk is on fire")
        records = self._layer.get(task_ids)
        if self._faults.between is not None:
            self._faults.between()
        return records

    def count(self) -> int:
        return self._layer.count()

    def close(self) -> None:
        self._layer.close()
