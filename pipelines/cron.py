"""When a six-field cron fires next, in UTC, as Kubeflow's own parser reads it. The configuration checks its form."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

from limaml.cron import values

# A day that exists once in four years, on a given weekday: once in 28 years, 40 across a century's missing leap day.
_LONGEST = timedelta(days=366 * 41)


def next_time(cron: str, after: datetime) -> datetime | None:
    """The first moment after `after` that a cron names; None where it names none, such as the 30th of February."""
    fields = cron.split()
    seconds, minutes, hours, days, months, weekdays = values(cron)
    # Where both are restricted, either is enough; where one is, it decides.
    either = not any(fields[position].startswith(("*", "?")) for position in (3, 5))
    after = after.astimezone(UTC).replace(microsecond=0)
    day, last = after.date(), (after + _LONGEST).date()
    while day <= last:
        fits = day.day in days, (day.weekday() + 1) % 7 in weekdays
        if day.month in months and (any(fits) if either else all(fits)):
            for moment in _moments(sorted(hours), sorted(minutes), sorted(seconds)):
                found = datetime.combine(day, moment, UTC)
                if found > after:
                    return found
        day += timedelta(days=1)
    return None


def _moments(hours: list[int], minutes: list[int], seconds: list[int]) -> Iterator[time]:
    return (time(hour, minute, second) for hour in hours for minute in minutes for second in seconds)
