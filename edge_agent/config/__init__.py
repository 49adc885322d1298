"""The device's configuration: one TOML file, a profile under it, the environment over it."""

from edge_agent.config.load import PROFILES, load, parse
from edge_agent.config.schema import Config

__all__ = ["PROFILES", "Config", "load", "parse"]
