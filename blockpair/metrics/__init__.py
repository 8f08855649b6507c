"""What Prometheus sees of a node: from reports to samples, pure; `http` serves them, the daemon gathers them.

A module a subject: the families it has, and a function from what is known of that subject to their samples.
"""
