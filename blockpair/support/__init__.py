"""The support archive: what those who help need to see, without secrets."""
