"""The former place of what runners ask of a session; it is in ``poprt.engine.protocol``."""

from poprt.engine.protocol import Session

__all__ = ["Session"]
