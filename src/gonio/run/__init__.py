"""Running: many jobs at a time, and what was asked for, with what. Knows nothing of alignment."""

from gonio.run.provenance import settings_toml

__all__ = ["settings_toml"]
