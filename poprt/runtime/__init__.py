"""Runners over an executable: numpy and onnxruntime only."""

from poprt.engine.device import Device, DeviceManager, ReplicaIdToDevice
from poprt.executable import Executable
from poprt.runtime.admission import Pending
from poprt.runtime.batching import Flow, RunFuture
from poprt.runtime.config import PackAlgorithm, PackRunnerConfig, RuntimeConfig
from poprt.runtime.data_desc import DataDesc
from poprt.runtime.declared import DeclaredSession
from poprt.runtime.host_concat_runner import HostConcatConfig, HostConcatRunner, HostConcatRunnerConfig
from poprt.runtime.light_runner import LightRunner, LightRunnerConfig
from poprt.runtime.memory_views import InputMemoryView, OutputMemoryView
from poprt.runtime.model_runner import ModelRunner
from poprt.runtime.observation import PackObservation
from poprt.runtime.pack_runner import PackRunner
from poprt.runtime.packing import PackedData, pack_data
from poprt.runtime.runner import Runner

__all__ = [
    "DataDesc",
    "DeclaredSession",
    "Device",
    "DeviceManager",
    "Executable",
    "Flow",
    "HostConcatConfig",
    "HostConcatRunner",
    "HostConcatRunnerConfig",
    "InputMemoryView",
    "LightRunner",
    "LightRunnerConfig",
    "ModelRunner",
    "OutputMemoryView",
    "PackAlgorithm",
    "PackObservation",
    "PackRunner",
    "PackRunnerConfig",
    "PackedData",
    "Pending",
    "ReplicaIdToDevice",
    "RunFuture",
    "Runner",
    "RuntimeConfig",
    "pack_data",
]
