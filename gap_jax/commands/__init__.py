"""What the words behind `gap_jax COMMAND` mean; each module holds one command."""
