"""What a simulated log looks like: two kinds, told apart by the columns an application asks for.

`notifications` have a member, an item and a notification type; `invitations` have an inviter and an invitee. The
population underneath is the same: an inviter is a member, an invitee is an item.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Application
from limaml.data.population import ITEM_FEATURES, MEMBER_FEATURES, TYPES, Integers, Items, Kind, Members
from limaml.errors import ConfigError
from limaml.schema import EVENT_TIME, LABEL, ROW_ID, TIMESTAMP, TRUE_PROBABILITY

REQUEST_ID = "request_id"
IMPRESSION_ID = "impression_id"
HOUR = "hour_of_day"
NOTIFICATION_TYPE = "notification_type"
TRUTH_SCHEMA = pa.schema([(ROW_ID, pa.int64()), (TRUE_PROBABILITY, pa.float32())])


@dataclass(frozen=True)
class LogFormat:
    """Names of a kind's columns. `first_item_after_members`: item ids follow the members', being members too."""

    kind: Kind
    member: str
    item: str
    has_type: bool
    first_item_after_members: bool

    @property
    def member_id(self) -> str:
        return f"{self.member}_id"

    @property
    def item_id(self) -> str:
        return f"{self.item}_id"

    @property
    def schema(self) -> pa.Schema:
        """Columns of the interactions."""
        numeric = [f"{self.member}_x{i}" for i in range(MEMBER_FEATURES)]
        numeric += [f"{self.item}_popularity", *(f"{self.item}_x{i}" for i in range(ITEM_FEATURES))]
        return pa.schema(
            [
                (IMPRESSION_ID, pa.int64()),
                (EVENT_TIME, TIMESTAMP),
                (LABEL, pa.int8()),
                (self.member_id, pa.int64()),
                (self.item_id, pa.int64()),
                *([(NOTIFICATION_TYPE, pa.string())] if self.has_type else []),
                (HOUR, pa.int8()),
                *((name, pa.float32()) for name in numeric),
            ]
        )

    @property
    def candidate_schema(self) -> pa.Schema:
        """Columns a policy sees: the interactions' without the label, and the request."""
        fields = [field for field in self.schema if field.name != LABEL]
        return pa.schema([pa.field(REQUEST_ID, pa.int64()), *fields])

    def candidates(
        self, members: Members, items: Items, request_id: Integers, time: Integers, *who: Integers
    ) -> pa.Table:
        """A table of `candidate_schema` from [R] request ids, times (µs) and `who`: member, item positions, hours."""
        member, item, hour = who
        first_item = self.first_item(len(members.activity))
        columns: list[pa.Array | npt.NDArray] = [request_id, request_id, pa.array(time, TIMESTAMP)]
        columns += [member + 1, item + first_item]
        if self.has_type:
            codes = pa.array(items.type_code[item])
            columns.append(pa.DictionaryArray.from_arrays(codes, list(TYPES)).cast(pa.string()))
        columns.append(hour.astype(np.int8))
        columns += list(members.features.T[:, member])
        columns.append(items.popularity[item])
        columns += list(items.features.T[:, item])
        return pa.Table.from_arrays([pa.array(column) for column in columns], schema=self.candidate_schema)

    def interactions(self, sent: pa.Table, label: npt.NDArray[np.bool_]) -> pa.Table:
        """The log's rows: what was sent, and what came of it."""
        with_label = sent.append_column(LABEL, pa.array(label.astype(np.int8)))
        return with_label.select(self.schema.names)

    def first_item(self, members: int) -> int:
        """The smallest item id in a world of so many members."""
        return members + 1 if self.first_item_after_members else 1


FORMATS = (
    LogFormat("notifications", "member", "item", has_type=True, first_item_after_members=False),
    LogFormat("invitations", "inviter", "invitee", has_type=False, first_item_after_members=True),
)


def log_format(application: Application) -> LogFormat:
    """The kind of log an application reads.

    Raises:
        ConfigError: it asks for a column that no kind has.
    """
    data = application.data
    wanted = {*application.key_columns, data.member_column, data.item_column}
    wanted |= {feature.name for feature in application.features.all}
    wanted |= {data.row_id_column} if data.row_id_column else set()
    missing = {form.kind: sorted(wanted - set(form.schema.names)) for form in FORMATS}
    for form in FORMATS:
        if not missing[form.kind]:
            return form
    nearest = min(FORMATS, key=lambda form: len(missing[form.kind]))
    raise ConfigError(
        f"application {application.name}: can't be simulated, since simulated {nearest.kind} have no column "
        f"{', '.join(missing[nearest.kind])}; they have {', '.join(nearest.schema.names)}"
    )
