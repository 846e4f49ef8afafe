"""Logical days and half-open windows of them.

`as_of` is the logical date of a run: everything before the start of that day may be used. A logical day D starts at
D 00:00 in the application's offset from UTC, so a log split at midnight in UTC+8 keeps its own days.
"""

from datetime import UTC, date, datetime, timedelta

from pydantic import BaseModel, ConfigDict, model_validator

from limaml.config import Windows
from limaml.errors import ConfigError

TRAIN = "train"
MAXIMUM_DATES = 92


class Window(BaseModel):
    """Logical days `[start, end)` of an application whose days start `utc_offset_hours` before UTC's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: date
    end: date
    utc_offset_hours: int = 0

    @model_validator(mode="after")
    def _ordered(self) -> "Window":
        if self.start >= self.end:
            raise ValueError(f"a window needs start < end, got [{self.start}, {self.end})")
        return self

    @property
    def name(self) -> str:
        """How the window is called in paths: `2022-04-25_2022-05-01`."""
        return f"{self.start}_{self.end}"

    @property
    def days(self) -> list[date]:
        """The logical days, oldest first."""
        return [self.start + timedelta(days=i) for i in range((self.end - self.start).days)]

    @property
    def start_time(self) -> datetime:
        """First instant inside, UTC."""
        return day_start(self.start, self.utc_offset_hours)

    @property
    def end_time(self) -> datetime:
        """First instant after, UTC."""
        return day_start(self.end, self.utc_offset_hours)


class TaskSplit(BaseModel):
    """One task set of a run: samples in `[start, end)`, and where support ends and query begins.

    With a `boundary`, rows before it are support and rows from it on are query; without one, each task's oldest
    `support_fraction` of samples is its support set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    window: Window
    boundary: date | None = None

    @property
    def boundary_time(self) -> datetime | None:
        """First instant of the query rows, UTC."""
        return None if self.boundary is None else day_start(self.boundary, self.window.utc_offset_hours)


def training_splits(windows: Windows, as_of: date) -> dict[str, TaskSplit]:
    """The task sets of a training run: `train`, `validation` and `test`, in temporal order.

    Validation scores its newer half and test all its days; both adapt on the `lookback_days` before what they score,
    exactly as a daily refresh on that day would have. θ trains on no row of the validation days, and between the last
    row it trains on and the first it is chosen by lies a gap in time.
    """
    test = as_of - timedelta(days=windows.test_days)
    validation = test - timedelta(days=windows.validation_days)
    train = validation - timedelta(days=windows.train_days)
    middle = validation + timedelta(days=windows.validation_days // 2)
    lookback = timedelta(days=windows.lookback_days)

    def window(start: date, end: date) -> Window:
        return Window(start=start, end=end, utc_offset_hours=windows.utc_offset_hours)

    return {
        TRAIN: TaskSplit(name=TRAIN, window=window(train, validation)),
        "validation": TaskSplit(name="validation", window=window(max(train, middle - lookback), test), boundary=middle),
        "test": TaskSplit(name="test", window=window(test - lookback, as_of), boundary=test),
    }


def refresh_split(windows: Windows, as_of: date) -> TaskSplit:
    """The task set of a daily refresh: the last `lookback_days`, all of it support."""
    window = Window(
        start=as_of - timedelta(days=windows.lookback_days), end=as_of, utc_offset_hours=windows.utc_offset_hours
    )
    return TaskSplit(name="recent", window=window, boundary=as_of)


def training_window(windows: Windows, as_of: date) -> Window:
    """Every day a training run reads."""
    splits = training_splits(windows, as_of).values()
    return Window(
        start=min(split.window.start for split in splits), end=as_of, utc_offset_hours=windows.utc_offset_hours
    )


def parse_window(start: str, end: str, utc_offset_hours: int = 0) -> Window:
    """The logical days `[start, end)` of two ISO dates.

    Raises:
        ConfigError: they are no dates, or not in this order.
    """
    first, last = _parse_date("start", start), _parse_date("end", end)
    if first >= last:
        raise ConfigError(f"start must be before end, got {first} and {last}")
    return Window(start=first, end=last, utc_offset_hours=utc_offset_hours)


def parse_dates(first: str, last: str, utc_offset_hours: int = 0, now: datetime | None = None) -> list[date]:
    """The run dates from `first` to `last`, both included, the oldest first.

    Raises:
        ConfigError: they are no dates, not in this order, more than `MAXIMUM_DATES`, or not yet there.
    """
    start, end = _parse_date("first date", first), _parse_date("last date", last)
    today = resolve_run_date("", utc_offset_hours, now)
    if start > end:
        raise ConfigError(f"the first date must not be after the last, got {start} and {end}")
    if end > today:
        raise ConfigError(f"last date {end} is yet to come: today is {today}")
    count = (end - start).days + 1
    if count > MAXIMUM_DATES:
        raise ConfigError(f"{start} to {end} are {count} dates; give at most {MAXIMUM_DATES} at a time")
    return [start + timedelta(days=i) for i in range(count)]


def _parse_date(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigError(f"{name} {text!r} is no date like 2026-01-31") from error


def day_start(day: date, utc_offset_hours: int) -> datetime:
    """The UTC instant at which a logical day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=utc_offset_hours)


def resolve_run_date(text: str, utc_offset_hours: int = 0, now: datetime | None = None) -> date:
    """The logical date of a run from a pipeline parameter.

    An empty text, or a schedule placeholder the backend left unexpanded (it contains `[[`), means the logical day that
    has begun; an ISO date means itself; a timestamp (UTC where it names no offset) means the logical day it lies in.

    Raises:
        ConfigError: the text is none of these.
    """
    text = text.strip()
    try:
        if len(text) == 10:
            return date.fromisoformat(text)
        moment = (now or datetime.now(UTC)) if not text or "[[" in text else datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"run date {text!r} is neither a date like 2026-01-31 nor empty (today)") from error
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment + timedelta(hours=utc_offset_hours)).date()
