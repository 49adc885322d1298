"""The compiler's tests need the training build; where it has no wheel they are skipped, but for
those of statistics, whose plans are not differentiated."""

import pytest

_REASON = "needs onnx and onnxruntime-training-cpu (Python 3.11 or 3.12, not on Linux ARM)"

try:
    import onnx  # noqa: F401
    from onnxruntime.capi import _pybind_state

    HAS_TRAINING_BUILD = hasattr(_pybind_state, "GradientGraphBuilder")
    collect_ignore_glob: list[str] = []
except ImportError:
    HAS_TRAINING_BUILD = False
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not HAS_TRAINING_BUILD:
        for item in items:
            path = item.path.as_posix()
            if "tests/coordinator/compiler" in path and "/test_statistics" not in path:
                item.add_marker(pytest.mark.skip(reason=_REASON))
