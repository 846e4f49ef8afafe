"""Where things lie below a data root, for those who write one: `interactions/date=2026-01-31/part-000.parquet`."""

from datetime import date
from pathlib import Path

from limaml import storage
from limaml.data import partitions
from limaml.errors import ConfigError
from limaml.manifest import find_manifest

INTERACTIONS = partitions.FOLDER
VISITS = "visits"
SIGNUPS = "signups"
TRUTH = "truth"


def part_path(root: Path, dataset: str, day: date | None = None) -> Path:
    """The one file of a data set's day, its directory made; without a day, of a data set that has none."""
    folder = root / dataset / f"date={day}" if day else root / dataset
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "part-000.parquet"


def days_of(uri: str) -> list[str]:
    """The days of interactions a directory holds, as text, sorted."""
    names = storage.list_directories(storage.join(uri, INTERACTIONS))
    return [name.removeprefix("date=") for name in names if name.startswith("date=")]


def refuse_foreign(output: str, kind: str) -> None:
    """Stop before a data root is replaced that this stage did not write.

    Raises:
        ConfigError: the directory has content, but no manifest of this kind.
    """
    occupied = storage.list_directories(output) or storage.list_files(output)
    if not occupied:
        return
    manifest = find_manifest(output)
    if manifest is None or manifest.kind != kind:
        held = f"a {manifest.kind!r} output" if manifest else "files that no stage wrote"
        raise ConfigError(f"{output}: holds {held}, which would be lost; give an empty or new directory")
