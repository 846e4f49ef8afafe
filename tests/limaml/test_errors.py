import pytest

from limaml import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.DataError, 3),
        (errors.IntegrityError, 3),
        (errors.GateRefused, 4),
        (errors.StorageError, 5),
        (errors.StoreError, 5),
        (errors.NoRelease, 5),
        (errors.ReleaseConflict, 5),
        (errors.LeaseHeld, 6),
        (errors.ReleaseHeld, 7),
        (errors.KubeflowError, 8),
        (errors.RunOverdue, 9),
    ],
)
def test_exit_codes_are_the_documented_ones(kind: type[errors.LimamlError], code: int) -> None:
    assert kind.exit_code == code


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    own = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(own) == 13
    assert all(issubclass(kind, errors.LimamlError) and kind.__name__ in (errors.__doc__ or "") for kind in own)
