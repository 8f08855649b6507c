"""Two servers, one disk: block replication and failover in userspace."""
