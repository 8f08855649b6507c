"""What a resource's state means: the published schema, conditions to wait for, and advice. Pure."""
