"""The arbiter that is an etcd cluster: one key a resource, changed by a transaction on what was read."""

from blockpair.arbiter.etcd.arbiter import EtcdArbiter
from blockpair.arbiter.etcd.gateway import Credentials, check_endpoint

__all__ = ["Credentials", "EtcdArbiter", "check_endpoint"]
