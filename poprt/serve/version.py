"""The version that the server tells."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("poprt")
except PackageNotFoundError:  # a checkout that was not installed
    VERSION = "unknown"
