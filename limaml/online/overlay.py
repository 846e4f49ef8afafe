"""A release as readers see it: the newest layer over its bases. How everything that reads a release opens it.

A delta is stored as an overlay: a generation that holds only the tasks that changed, and tombstones for those that are
gone, and names the generation below it (`base`). The newest layer that knows a task answers for it.
"""

from collections.abc import Sequence
from contextlib import ExitStack

from limaml.errors import StoreError
from limaml.online.records import FORMAT, Layout, Records
from limaml.online.store import Generation, Layer, Reader, Store


def chain(store: Store, name: str) -> list[Generation]:
    """A sealed generation and its bases, newest first.

    Raises:
        StoreError: one of them is missing or unfinished, or was made for other readers than the newest.
    """
    layers: list[Generation] = []
    while name:
        sealed = store.sealed(name)
        if sealed is None:
            above = f", which {layers[-1].name} lies on" if layers else ""
            raise StoreError(f"{store.url}: there is no sealed generation {name}{above}; roll back, then publish again")
        if sealed.format > FORMAT:
            raise StoreError(
                f"{store.url}: {name} is of format {sealed.format}, newer than {FORMAT}: upgrade the reader"
            )
        if layers and _kind(sealed) != _kind(layers[0]):
            raise StoreError(
                f"{store.url}: {layers[-1].name} is {_kind(layers[0])}, but lies on {name}, which is {_kind(sealed)}; "
                "roll back, then publish again"
            )
        layers.append(sealed)
        name = sealed.base
    return layers


def _kind(sealed: Generation) -> str:
    return f"{sealed.width} × {sealed.dtype} of model {sealed.model_version}"


def open_generation(store: Store, name: str) -> Reader:
    """A sealed generation with every layer below it, open for reading.

    Raises:
        StoreError: a layer is missing or can't be read.
    """
    with ExitStack() as opened:
        layers: list[Layer] = []
        for sealed in chain(store, name):
            layers.append(store.open(sealed.name))
            opened.callback(layers[-1].close)
        opened.pop_all()
    return layers[0] if len(layers) == 1 else Overlay(layers)


class Overlay:
    """Layers, newest first, read as one generation."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self.generation = layers[0].generation
        self._layout = Layout(self.generation.width, self.generation.dtype)

    def get(self, task_ids: Sequence[str]) -> Records:
        """The newest record of each task; what was removed is absent."""
        found = self._layers[0].get(task_ids)
        for layer in self._layers[1:]:
            unknown = [place for place, value in enumerate(found.values) if value is None]
            if not unknown:
                break
            values = list(found.values)
            below = layer.get([task_ids[place] for place in unknown]).values
            for place, value in zip(unknown, below, strict=True):
                values[place] = value
            found = Records(values, self._layout)
        return found

    def close(self) -> None:
        """Close every layer."""
        for layer in self._layers:
            layer.close()
