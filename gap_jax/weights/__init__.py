"""Parameters from files: our own weights and, in time, other people's."""
