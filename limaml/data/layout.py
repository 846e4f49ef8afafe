"""Where things lie below a data root, `interactions/date=2026-01-31/part-000.parquet`: the one place to spell it."""

from datetime import date
from pathlib import Path

from limaml import storage
from limaml.errors import ConfigError
from limaml.manifest import find_manifest

INTERACTIONS = "interactions"
VISITS = "visits"
SIGNUPS = "signups"
TRUTH = "truth"

DAY_PREFIX = "date="


def day_folder(day: date) -> str:
    """The name of a logical day's folder."""
    return f"{DAY_PREFIX}{day}"


def day_of(path: str) -> date | None:
    """The logical day of the folder a file lies in, or None where it lies in none."""
    for part in reversed(path.split("/")[:-1]):
        if part.startswith(DAY_PREFIX):
            return date.fromisoformat(part.removeprefix(DAY_PREFIX))
    return None


def part_path(root: Path, dataset: str, day: date | None = None) -> Path:
    """The one file of a data set's day, its directory made; without a day, of a data set that has none."""
    folder = root / dataset / day_folder(day) if day else root / dataset
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "part-000.parquet"


def days_of(uri: str) -> list[str]:
    """The days of interactions a directory holds, as text, sorted."""
    names = storage.list_directories(storage.join(uri, INTERACTIONS))
    return [name.removeprefix(DAY_PREFIX) for name in names if name.startswith(DAY_PREFIX)]


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
