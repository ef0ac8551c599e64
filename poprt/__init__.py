"""poprt: rewrite, pack, compile and serve transformer encoders in ONNX."""
