"""What happened on this node: one durable, bounded stream, and its deliveries to people and programs."""
