"""What makes nodes trust each other: the cluster's authority, certificates, join tokens, and TLS contexts."""
