"""Two servers, one disk: block replication and failover in userspace."""

__version__ = "0.1.0"
