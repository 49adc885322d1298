"""Assignments as they were given, the latest in memory: uploads look them up again and again."""

from collections import OrderedDict

from coordinator.errors import Conflict, NotFound
from coordinator.store import assignments
from coordinator.store.records import AssignmentRecord
from coordinator.store.sql import Store

_KNOWN = 2000  # some 0.4 kB each; the others are looked up


class AssignmentEnded(Conflict):
    """An assignment of `task` has ended: its update can count no more."""

    def __init__(self, task: str, detail: str) -> None:
        super().__init__("late", detail)
        self.task = task


class AssignmentCache:
    """What never changes of an assignment (whose, of which task, from which model); its state is as
    last seen, and only the store's word on that counts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, AssignmentRecord] = OrderedDict()

    def add(self, row: AssignmentRecord) -> None:
        """Remember one."""
        self._known[row.id] = row
        self._known.move_to_end(row.id)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def forget(self, assignment: str) -> None:
        """It has ended, or its device has left."""
        self._known.pop(assignment, None)

    async def find(self, assignment: str, device: str) -> AssignmentRecord:
        """One that is at work, or whose update counts. Raises `NotFound` unless it is the device's
        own, `Conflict` when it has ended."""
        row = self._known.get(assignment)
        if row is None:
            row = await self._store.read(assignments.assignment, assignment)
        if row is None or row.device != device:
            raise NotFound("unknown_assignment", f"this device has no assignment {assignment}")
        if row.state == "working":
            if len(self._known) < _KNOWN:  # it takes the place of none that is still to come
                self.add(row)
        elif row.state != "accepted":
            raise AssignmentEnded(row.task, f"assignment {assignment} has ended: {row.state}")
        return row
