"""``blockpaird``: one a node. Keeps the resources that shall be up, serves the CLI, and outlives being
killed.
"""
