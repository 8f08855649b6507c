"""JSON-RPC 2.0 between the CLI and the daemon: a message a line, over a Unix socket."""
