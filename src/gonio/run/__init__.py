"""Running: many tasks at a time, checkpoints, result folders and provenance. Knows nothing of alignment."""

from gonio.run.provenance import settings_toml

__all__ = ["settings_toml"]
