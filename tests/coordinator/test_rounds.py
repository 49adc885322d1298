"""Whole rounds: a coordinator over real sockets, fake devices, and time that leaps."""

from tests.coordinator.plans import constant, plan
from tests.coordinator.serving import Serving


async def test_the_goal_closes_a_round(served: Serving):
    await plan(goal=2).create(served.admin)
    for device in await served.devices(2):
        await device.serve(constant(1.0))
    await served.round_ends(1)
    detail = await served.admin.task("digits")
    assert detail.rounds[0].phase == "closed"
    assert detail.rounds[0].reason == "goal"
    assert detail.task.version == 1
