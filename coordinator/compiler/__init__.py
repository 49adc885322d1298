"""From an ONNX model to a plan that stock ONNX Runtime trains. See `compile.py`."""
