"""The command line: parse, call, print; no science."""

from gonio.cli.app import main

__all__ = ["main"]
