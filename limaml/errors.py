"""Every error a user can meet, and the exit code of the command that raises it.

    LimamlError                      the root; never raised itself
    ├── ConfigError            2     the application's YAML, a command's arguments, a model that contradicts them
    ├── DataError              3     interactions or artifacts that break their contract
    │   └── IntegrityError     3     bytes that don't match the manifest naming them
    ├── GateRefused            4     the challenger did not earn promotion; the champion stays
    ├── StorageError           5     a workspace that can't be read or written
    ├── StoreError             5     an online store that can't be read or written, or a partial push
    │   ├── NoRelease          5     nothing was published for the application yet
    │   └── ReleaseConflict    5     the current release moved while we prepared the next one
    ├── LeaseHeld              6     another run holds (application, date)
    ├── ReleaseHeld            7     a rollback's hold is on: newer publishes wait for a person to end it
    ├── KubeflowError          8     Kubeflow or its cluster can't be reached, refuses, or a run there did not succeed
    └── RunOverdue             9     a run worked on its date for longer than it may

A message says what was wrong, where (file, column, row, task), the value seen, and what to do.
"""


class LimamlError(Exception):
    """Root of the errors a user can meet."""

    exit_code: int = 1


class ConfigError(LimamlError):
    """The configuration or the arguments of a command are wrong."""

    exit_code = 2


class DataError(LimamlError):
    """Interactions or artifacts break their contract."""

    exit_code = 3


class IntegrityError(DataError):
    """Bytes on disk do not match the manifest that names them."""


class GateRefused(LimamlError):
    """The challenger did not earn promotion; the champion is unchanged."""

    exit_code = 4


class StorageError(LimamlError):
    """A workspace URI can't be read or written."""

    exit_code = 5


class StoreError(LimamlError):
    """An online store can't be read or written, or a push stayed partial."""

    exit_code = 5


class NoRelease(StoreError):
    """Nothing was published for the application yet."""


class ReleaseConflict(StoreError):
    """The current release changed between reading and flipping the pointer."""


class LeaseHeld(LimamlError):
    """Another run works on the same (application, date)."""

    exit_code = 6


class ReleaseHeld(LimamlError):
    """The current release is held, so nothing newer is published."""

    exit_code = 7


class KubeflowError(LimamlError):
    """Kubeflow Pipelines or its cluster can't be reached, refuses what is asked, or a run there did not succeed."""

    exit_code = 8


def from_line(line: str) -> LimamlError | None:
    """The error that `ERROR Kind: message`, the last line of a command or step, tells of; None for any other line."""
    name, _, message = line.strip().removeprefix("ERROR ").partition(": ")
    kind = globals().get(name)
    if line.startswith("ERROR ") and isinstance(kind, type) and issubclass(kind, LimamlError):
        return kind(message)
    return None


class RunOverdue(LimamlError):
    """A run has worked on its date for longer than it may."""

    exit_code = 9
