"""What iterates and combines alignment and averaging: refinement, initial models, classes, extraction, inspection."""
