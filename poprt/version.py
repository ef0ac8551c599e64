"""The version of the package that is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("poprt")
except PackageNotFoundError:  # a checkout that was not installed
    VERSION = "unknown"
