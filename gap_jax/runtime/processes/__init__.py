"""Several processes that train one run: rendezvous, agreement, exchanged values, shutdown."""
