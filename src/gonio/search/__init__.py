"""From samples to optima: where candidates start, how they are refined, which are kept, how certain they are."""
