"""A swarm: thousands of devices over real HTTP from one process, for load tests of a coordinator.

    async with AdminClient(url, admin_token) as admin:
        token = await admin.token(uses=5000, lifetime=600)
    async with Swarm(url, connections=64) as swarm:
        joined = await swarm.run((enroll(token) for _ in range(5000)), seconds=60)
        places = await swarm.run((check_in(m.secret) for m in joined.results), seconds=60)

`fleet.clients` are devices as they behave; here nothing but the load counts, so that the generator
costs a fraction of what the server does: requests are bytes made beforehand, answers are read by a
bare asyncio protocol. What one device asks is a script, a generator that yields requests and is
sent answers. `Mould` makes an update for each assignment in microseconds, `dripping` holds uploads
that take minutes.
"""

from fleet.swarm.drip import Drips, SlowUpload, dripping
from fleet.swarm.line import Answer, Script, Tally
from fleet.swarm.mould import Body, Mould
from fleet.swarm.scripts import Said, check_in, deliver, enroll, request, update_request
from fleet.swarm.swarm import Swarm

__all__ = [
    "Answer",
    "Body",
    "Drips",
    "Mould",
    "Said",
    "Script",
    "SlowUpload",
    "Swarm",
    "Tally",
    "check_in",
    "deliver",
    "dripping",
    "enroll",
    "request",
    "update_request",
]
