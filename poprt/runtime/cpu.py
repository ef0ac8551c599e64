"""The former place of what the CPU can do; it is in ``poprt.engine.cpu``."""

from poprt.engine.cpu import lacks_int8_dot_products, usable_cores

__all__ = ["lacks_int8_dot_products", "usable_cores"]
