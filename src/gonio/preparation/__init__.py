"""From a particle and a reference to the samples that are compared."""
