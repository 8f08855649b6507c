"""A daemon that may do just what its unit lets it do."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.unit.test_packaging import words

# PR_SET_MDWE with PR_MDWE_REFUSE_EXEC_GAIN: what MemoryDenyWriteExecute= asks of newer kernels.
_DENY = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    sys.exit("no PR_SET_MDWE")
os.execvp(sys.argv[1], sys.argv[1:])
"""

# Of linux/capability.h.
NUMBERS = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_MKNOD": 27,
}


def rights(status: str) -> int:
    """The effective capabilities in a ``/proc/PID/status``."""
    return int(status.partition("CapEff:")[2].split()[0], 16)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up some of what root may do")
def test_two_nodes_replicate_with_the_rights_of_the_unit(cluster: Cluster) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("there is no setpriv")
    kept = ",".join(
        f"+{name.removeprefix('CAP_').lower()}" for name in sorted(words("CapabilityBoundingSet"))
    )
    limit = (setpriv, "--no-new-privs", f"--bounding-set=-all,{kept}", "--inh-caps=-all")
    deny = (sys.executable, "-c", _DENY) if _has_mdwe() else ()
    for node in cluster.nodes:
        node.prefix = (*limit, *deny)
    cluster.synced()
    cluster.a.write(0, b"x" * 4096)
    assert cluster.a.process is not None
    kept_bits = sum(1 << NUMBERS[name] for name in words("CapabilityBoundingSet"))
    told = Path(f"/proc/{cluster.a.process.pid}/status").read_text()
    # Whoever runs the tests may lack one of them.
    assert (
        "NoNewPrivs:\t1" in told and rights(told) == rights(Path("/proc/self/status").read_text()) & kept_bits
    )
    assert cluster.assert_equal(cluster.a)[:4096] == b"x" * 4096


def _has_mdwe() -> bool:
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return release >= (6, 3)
