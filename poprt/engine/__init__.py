"""The engine: onnxruntime as the compiler and the runtime use it, and nothing of either.

Which execution providers run a graph, on how many threads, and how many runs go on at the same time, is decided here
(``providers``, ``cpu``, ``lanes``). ``session`` opens an executable, ``plain`` a model as it is, both with ``options``.
onnxruntime is loaded by these three, and by no import of the others.
"""
