"""Device names that scripts ask for. There is one device here: the one that the engine runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from poprt.errors import PoprtError


@dataclass(frozen=True)
class Device:
    """A device by its index. Attributes: ``index``."""

    index: int = 0


class DeviceManager:
    """Lists devices. The engine chooses its own; the answers keep scripts running that were written for an IPU."""

    def ipu_hardware_version(self) -> str:
        """Return the name of the IPU generation that scripts compile for."""
        return "ipu21"

    def get_num_devices(self) -> int:
        """Return the number of devices, 1."""
        return 1

    def get_device(self, num_ipus: int = 1) -> Device:
        """Return a device that is as large as ``num_ipus``: the one there is."""
        if num_ipus < 1:
            raise PoprtError(f"num_ipus: expected >= 1, got {num_ipus}")
        return Device()

    def get_specific_device(self, device_id: int) -> Device:
        """Return the device of this index; raise PoprtError where there is none."""
        if not 0 <= device_id < self.get_num_devices():
            raise PoprtError(f"no device {device_id}: there are {self.get_num_devices()}, counted from 0")
        return Device(device_id)


class ReplicaIdToDevice(dict[int, Any]):
    """Replica number -> device."""
