"""Whole experiments on public data, one command each: see the README in each folder; `digits` is a
file for `lamplighter simulate`."""

import os

# onnxruntime 1.29 and newer report usage to their maker on import: said before any module of ours
# can load it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
