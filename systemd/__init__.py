"""Everything about systemd, for both sides: the units, how a service speaks to systemd and to the
journal, and how it is installed.

Stands on nothing of ours. Without systemd, `notify` and `journal` fall silent or fall back.
"""
