"""How well a node is: a score from 0 to 100, and whether a Primary should hand over because of it."""
