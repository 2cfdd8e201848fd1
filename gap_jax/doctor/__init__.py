"""Looks at a machine: devices, packages, limits, and a self-test in a process of its own."""
