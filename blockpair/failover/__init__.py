"""The service follows the data: promote, mount, units, virtual addresses, in the right order, and back."""
