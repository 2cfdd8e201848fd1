"""Everything inside jit: targets, losses, optimisers, as pure functions."""
