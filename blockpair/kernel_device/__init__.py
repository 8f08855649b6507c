"""The kernel's block device of a resource: ``/dev/nbdN``, attached to the daemon by socket pairs.

`device` attaches, re-attaches and detaches; `netlink` speaks to the kernel's nbd driver; `holders` names who
uses a block device; `memory` keeps a daemon that serves one from waiting for its own write-back. Everything
here blocks and needs root: call it from a worker thread, never from the event loop.
"""
