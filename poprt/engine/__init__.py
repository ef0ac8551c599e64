"""The engine: onnxruntime as the compiler and the runtime use it, and nothing of either.

Which execution providers run a graph, and on how many threads, is decided here (``providers``, ``cpu``). ``session``
opens an executable, ``plain`` a model as it is. onnxruntime is loaded by those two, and by no import of the others.
"""
