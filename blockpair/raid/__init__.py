"""The layer under the replica: md arrays and their spares."""
