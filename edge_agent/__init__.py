"""The device: eligibility, examples, training, outbox and upload, and the agent's loop.

An idle agent imports neither numpy nor onnxruntime; both live in the training child.
"""

import os

# onnxruntime 1.29 and newer report usage to their maker on import. A runtime for private data
# must not: said here, before any module of ours can load it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
