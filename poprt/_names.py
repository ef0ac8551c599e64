"""Keys under which scripts find things in a model's metadata and in the blobs of an executable."""

from poprt_format.host_concat import HOST_CONCAT_KEY as sHostConcatRunnerConfig  # noqa: N811  (scripts import this name)

__all__ = ["sHostConcatRunnerConfig"]
