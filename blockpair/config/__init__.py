"""What an administrator writes: where it is, what may be in it, how it is read and written."""
