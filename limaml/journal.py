"""What the steps of a run say of themselves, one small file a step: whoever closes the run tells from it how it went.

Kubeflow's own account names the step that failed and not why; a step that was killed says nothing, and its file goes on
saying `running`.
"""

from datetime import UTC, date, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from limaml import storage
from limaml.workspace import Workspace


class Entry(BaseModel):
    """One step's account; a later attempt replaces it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    run_date: date | None = Field(default=None, description="none where the step failed before it knew")
    lease: str = Field(default="", description="URI of the lock file the step ran under")
    state: Literal["running", "succeeded", "failed"] = "running"
    error: str = Field(default="", description="name of the error that ended it")
    message: str = ""
    output: str = Field(default="", description="URI of what it wrote")
    figures: dict[str, Any] = {}
    started_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None

    def ended(self, error: BaseException | None, output: str, figures: dict[str, Any]) -> Self:
        """The account of a step that has just ended."""
        return self.model_copy(
            update={
                "state": "succeeded" if error is None else "failed",
                "error": "" if error is None else type(error).__name__,
                "message": "" if error is None else str(error),
                "output": output,
                "figures": figures,
                "ended_at": datetime.now(UTC),
            }
        )


def write(place: Workspace, run_id: str, entry: Entry) -> None:
    """Put a step's account in its place.

    Raises:
        StorageError: it can't be written.
    """
    uri = storage.join(place.journal(run_id), f"{entry.run_date or 'undated'}_{entry.step}.json")
    storage.write_bytes(uri, entry.model_dump_json(indent=2).encode() + b"\n")


def read(place: Workspace, run_id: str) -> list[Entry]:
    """The accounts of a run's steps, in the order in which they began; empty where none has.

    Raises:
        StorageError: they can't be read.
    """
    uri = place.journal(run_id)
    if not storage.exists(uri):
        return []
    scheme = uri.partition("://")[0]
    files = storage.list_files(uri, ".json")
    entries = [Entry.model_validate_json(storage.read_bytes(f"{scheme}://{file.path}")) for file in files]
    return sorted(entries, key=lambda entry: entry.started_at)
