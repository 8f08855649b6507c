"""``blockpair``: one module a command. Modules import what is slow only where they use it."""
