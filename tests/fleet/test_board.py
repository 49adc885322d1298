from coordinator.views import AssignmentView
from fleet.demo.board import timeline


def _assignment(state: str, ended: float | None) -> AssignmentView:
    return AssignmentView(
        id="a",
        device="d",
        name="device-1",
        round=1,
        version=0,
        staleness=0,
        state=state,
        reason=None,
        detail=None,
        assigned=0.0,
        ended=ended,
        late=None,
        lateness=None if ended is None else ended - 10.0,
        counted=1 if state == "accepted" else None,
        bytes=None,
        examples=None,
        steps=None,
        loss=None,
        seen_after=0.0,
        streak=0,
        rests=None,
    )


def test_arrivals_stand_where_they_came_between_start_and_deadline() -> None:
    shown = timeline(
        [
            _assignment("accepted", 0.0),
            _assignment("accepted", 5.0),
            _assignment("expired", 10.0),
            _assignment("working", None),
        ],
        deadline=10.0,
    )
    assert shown == "●···········●··········○│"
