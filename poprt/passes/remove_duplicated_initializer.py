"""The pass of this name, under the path that scripts import."""

from passes.cleanup.remove_duplicated_initializer import RemoveDuplicatedInitializer

__all__ = ["RemoveDuplicatedInitializer"]
