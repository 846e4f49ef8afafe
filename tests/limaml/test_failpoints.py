"""A failpoint kills at the passing asked for, and otherwise leaves no trace."""

import signal

import pytest

from limaml import failpoints
from limaml.failpoints import failpoint
from tests.forks import FORKS


def three_steps(armed: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(failpoints.VARIABLE, armed)
        for _ in range(2):
            failpoint("somewhere")
        failpoint("elsewhere")


@pytest.mark.parametrize(
    ("armed", "exit_code"),
    [
        ("somewhere", -signal.SIGKILL),
        ("somewhere:2", -signal.SIGKILL),
        ("somewhere:3", 0),
        ("elsewhere", -signal.SIGKILL),
        ("nowhere", 0),
    ],
)
def test_kills_at_the_passing_asked_for(armed: str, exit_code: int) -> None:
    process = FORKS.Process(target=three_steps, args=(armed,))
    process.start()
    process.join(60)
    assert process.exitcode == exit_code


def test_counts_only_where_the_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.passed.clear()
    failpoint("somewhere")
    assert not failpoints.passed
    three_steps("nowhere")
    assert failpoints.passed == {"somewhere": 2, "elsewhere": 1}
    failpoints.passed.clear()
