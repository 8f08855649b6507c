"""Who may write: the register of a resource's configuration, and the kinds of arbiter that can keep it."""
