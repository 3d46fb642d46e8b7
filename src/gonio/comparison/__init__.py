"""Two particles as samples: how alike they are at a pose, and at which shift they agree best."""
