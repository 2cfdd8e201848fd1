"""What devices tell each other in a step, and what more of them would bring."""
