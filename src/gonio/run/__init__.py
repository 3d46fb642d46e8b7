"""Running: what was asked for, with what, and what came of it. Knows nothing of alignment."""

from gonio.run.provenance import settings_toml

__all__ = ["settings_toml"]
