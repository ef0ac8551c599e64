"""Packed models for the onnxruntime backend of Triton, which can lay the requests of a batch end to end itself.

``interface`` decides what Triton is told and refuses what it cannot serve, ``graph`` puts the steps around the
executable's graph, ``config`` writes ``config.pbtxt``, and ``repository`` the folder.
"""

from poprt.triton.interface import Interface, TritonOptions, read_interface
from poprt.triton.repository import ExportedModel, export_triton

__all__ = ["ExportedModel", "Interface", "TritonOptions", "export_triton", "read_interface"]
