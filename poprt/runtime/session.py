"""The session's former place; it is in ``poprt.engine.session``."""

from poprt.engine.providers import default_providers, has_fast_half
from poprt.engine.session import SLOWER_ON_CPU, EngineSession, engine_error

__all__ = ["SLOWER_ON_CPU", "EngineSession", "default_providers", "engine_error", "has_fast_half"]
