"""Fake devices over real HTTP, for our tests and for yours: they upload what they are told to.

    async with AdminClient(url, admin_token) as admin:
        token = await admin.token(uses=2, lifetime=60)
    honest = await Device.enroll(url, token)
    await honest.serve({"w": np.ones((64, 10), "<f4")})
    liar = await LyingDevice.enroll(url, token, lie=Lie.NOT_FINITE)
    with pytest.raises(Rejected, match="not_finite"):
        await liar.serve({"w": np.ones((64, 10), "<f4")})

One class a behaviour, and `serve` is one round of it: check in, take an assignment, do what that
device does with it. The steps of an upload are methods too, for what no class here does. A
coordinator that says no raises `Rejected`, one that does not answer `Offline`, both from
`edge_agent.errors`.
"""

from fleet.clients.device import FACTS, Device, NoWork
from fleet.clients.forging import forge, header
from fleet.clients.lying import FlippedDevice, Lie, LyingDevice
from fleet.clients.troubled import DuplicateDevice, FlappingDevice, SilentDevice, SlowDevice

__all__ = [
    "FACTS",
    "Device",
    "DuplicateDevice",
    "FlappingDevice",
    "FlippedDevice",
    "Lie",
    "LyingDevice",
    "NoWork",
    "SilentDevice",
    "SlowDevice",
    "forge",
    "header",
]
