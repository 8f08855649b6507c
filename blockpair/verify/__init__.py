"""What comparing both copies of a resource has proved and found, and the calls that ask for it."""
