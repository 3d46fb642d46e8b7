"""The stages of a search for a thousand pairs at once on GPUs."""
