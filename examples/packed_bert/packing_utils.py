"""The module that programs written for PopRT import to pack samples offline. The work is in ``poprt.runtime``."""

from poprt.runtime.packing import PackedData, pack_data

__all__ = ["PackedData", "pack_data"]
