"""From optima to results, for one particle and for a list."""
