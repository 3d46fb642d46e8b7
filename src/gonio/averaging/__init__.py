"""From aligned particles to maps: insertion, averages, half maps, resolution."""
