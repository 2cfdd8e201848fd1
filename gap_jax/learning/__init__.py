"""The pure functions of training: targets, losses, optimisers, steps."""
