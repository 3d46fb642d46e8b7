"""Workflows that combine alignment and averaging: refinement, initial models, classes, extraction, inspection."""
