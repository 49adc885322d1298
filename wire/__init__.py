"""What the device and the coordinator must agree on, byte for byte.

No clock, no network, and no disk but in `wire.files`: bytes in, values out, or one `WireError`
that names the broken rule.
The control messages (`wire.messages`, `wire.plan`) import nothing heavy, so that an idle agent
stays small; numpy is imported by what holds weights: `wire.tensors`, `wire.checkpoint`,
`wire.update` and the codecs.
"""

PROTOCOL_VERSIONS = (1,)
"""Protocol versions this build speaks, newest first: the current one and the one before."""
