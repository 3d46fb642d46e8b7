"""gonio aligns cryo-electron subtomograms by gradient."""
