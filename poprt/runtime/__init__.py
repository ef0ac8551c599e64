"""Runners over an executable: numpy and onnxruntime only."""
