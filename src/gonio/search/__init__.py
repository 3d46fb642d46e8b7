"""From samples to optima: where candidates begin, how they are refined, which are kept, how sure they are."""
