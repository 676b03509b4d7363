"""The version, which rules and runs are written with."""

__version__ = "0.2.0"
