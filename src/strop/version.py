"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("strop")
except PackageNotFoundError:
    __version__ = "0+unknown"  # run from its sources, not installed
