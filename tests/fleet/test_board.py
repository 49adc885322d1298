from coordinator.views import AssignmentView
from fleet.demo.board import timeline


def _assignment(state: str, ended: float | None) -> AssignmentView:
    return AssignmentView(
        id="a",
        device="d",
        state=state,
        reason=None,
        detail=None,
        assigned=0.0,
        ended=ended,
        bytes=None,
        examples=None,
        loss=None,
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
