"""Kubeflow's cron: six fields, seconds first, UTC, checked before anything is sent.

Kubeflow reads it with robfig/cron 1.2, which also takes five fields, of which it makes seconds to months: half past two
at night as everybody else writes it would mean another time, silently. So six are asked for here, and spelled alike:
names become numbers, `?` becomes `*`, and `@daily` the six fields it stands for, so that equal times are equal texts.
"""

_FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 6),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES = {
    "month": {name: number for number, name in enumerate(_MONTHS, start=1)},
    "weekday": {name: number for number, name in enumerate(_WEEKDAYS)},
}
_SHORT = {
    "@hourly": "0 0 * * * *",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@weekly": "0 0 0 * * 0",
    "@monthly": "0 0 0 1 * *",
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
}
_LONGEST = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}


def normalize(text: str) -> str:
    """A cron as six fields of numbers, the same text for the same times.

    Raises:
        ValueError: it is not a cron that Kubeflow takes, or one that never comes; says which part, and why.
    """
    fields = _SHORT.get(text.strip().lower(), text).split()
    if fields and fields[0].lower() == "@every":
        raise ValueError(f"cron {text!r} counts from when it is applied: give six fields, as '0 0 */2 * * *'")
    if fields and fields[0].upper().startswith(("TZ=", "CRON_TZ=")):
        raise ValueError(f"cron {text!r}: times are UTC; leave the time zone out and shift the hour")
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"cron {text!r} has {len(fields)} fields, Kubeflow's has six, seconds first: "
            "'0 30 2 * * *' is half past two every night, UTC"
        )
    plain = [
        ",".join(_part(text, part, *field) for part in given.split(","))
        for given, field in zip(fields, _FIELDS, strict=True)
    ]
    cron = " ".join(plain)
    _, _, _, days, months, _ = values(cron)
    if plain[5] == "*" and not any(day <= _LONGEST.get(month, 31) for month in months for day in days):
        raise ValueError(f"cron {text!r} never comes: no such day in any of its months")
    return cron


def values(cron: str) -> tuple[frozenset[int], ...]:
    """The seconds, minutes, hours, days, months and weekdays (0 is Sunday) of a cron of six fields of numbers.

    Where both days and weekdays are restricted, either is enough.
    """
    return tuple(
        frozenset(number for part in given.split(",") for number in _numbers(part, low, high))
        for given, (_, low, high) in zip(cron.split(), _FIELDS, strict=True)
    )


def _part(cron: str, part: str, name: str, low: int, high: int) -> str:
    """One element of a list as numbers: `*`, `a`, `a-b`, each with a step or without."""
    span, slash, step = part.partition("/")
    known = _NAMES.get(name, {})
    numbers = ["*"] if span in ("*", "?") else [str(known.get(end.lower(), end)) for end in span.split("-")]
    good = numbers == ["*"] or (
        len(numbers) <= 2 and all(end.isascii() and end.isdigit() and low <= int(end) <= high for end in numbers)
    )
    if not good or (len(numbers) == 2 and int(numbers[0]) > int(numbers[1])):
        also = f" or {', '.join(known).upper()}" if known else ""
        raise ValueError(
            f"cron {cron!r}: {part!r} is no {name}; give *, {low}–{high}{also}, a range a-b, a list a,b or a step */n"
        )
    if slash and not (step.isascii() and step.isdigit() and 0 < int(step) <= high - low):
        raise ValueError(
            f"cron {cron!r}: {part!r} takes every {step or '?'} {name}s; give a step from 1 to {high - low}"
        )
    plain = [end if end == "*" else str(int(end)) for end in numbers]
    return "-".join(plain) + (f"/{int(step)}" if slash else "")


def _numbers(part: str, low: int, high: int) -> range:
    span, slash, step = part.partition("/")
    ends = [low, high] if span in ("*", "?") else [int(end) for end in span.split("-")]
    # `5/15` begins at five and goes on to the end.
    last = high if slash and len(ends) == 1 else ends[-1]
    return range(ends[0], last + 1, int(step) if slash else 1)
