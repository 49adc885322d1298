"""Sizes as people write them: `64 kB` is 64,000 bytes, `300 MiB` is 300 x 2^20."""

import re

_UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?(B|[kMGT]B|[KMGT]iB)", re.ASCII)


class Size(int):
    """Bytes. In a TOML file it is a string with a unit; `parse` reads it."""

    @classmethod
    def parse(cls, text: object) -> "Size":
        """Raises `ValueError` that says what is allowed."""
        found = _SIZE.fullmatch(text) if isinstance(text, str) else None
        if not found:
            raise ValueError("expected a size such as '500 kB', '64 MB' or '2 GiB'")
        return cls(float(found[1]) * _UNITS[found[2]])

    def __str__(self) -> str:
        return human_size(self)


def human_size(size: float) -> str:
    """A size for people, in decimal units: `1.2 MB`, `340 B`."""
    for unit, step in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= step * 0.9995:
            return f"{size / step:.3g} {unit}"
    return f"{size:.0f} B"
