"""The engines, as the compiler and the runtime use them, and nothing of either.

Which engine may run an executable (``choice``), with which execution providers, on how many threads, and how many runs
go on at the same time, is decided here (``providers``, ``cpu``, ``lanes``). ``session`` opens an executable in
onnxruntime, ``openvino_session`` in OpenVINO; ``plain`` opens a model as it is in onnxruntime. An engine is loaded by
its own modules, and by no import of the others.
"""
