"""Signed model cards and statistics, and a model as ONNX."""
