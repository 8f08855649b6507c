"""The quick start on one machine, word for word: its code blocks are what runs.

All but its first line, for this checkout is set up; ``./scripts/docs test`` runs all, on a fresh machine.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile

import pytest
import quick_start

ROOT = quick_start.ROOT
# In namespaces of its own: its /tmp, its ports, its processes, which end with it. unshare is to be killed:
# it ignores SIGTERM.
_OWN = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c")
# It takes some seconds alone.
_LONGEST_S = 240
_OWN_TMP = "mount -t tmpfs own /tmp\n"


def before() -> str:
    """A reader's machine: nothing in /tmp, and the shell in a checkout that is set up."""
    root, own_tmp = shlex.quote(str(ROOT)), _OWN_TMP
    if ROOT.is_relative_to("/tmp"):
        # Read-only: the page ends with removing what it made in /tmp.
        own_tmp = f"mount --bind -o ro {root} /mnt\n{own_tmp}mkdir -p {root}\nmount --move /mnt {root}\n"
    checkout = f'cd "$(mktemp -d)"\nln -s {root}/.venv .venv\n'
    return f"set -e\n{own_tmp}ip link set lo up\n{checkout}"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a /tmp of its own")
def test_word_for_word() -> None:
    for program in ("unshare", "ip", "nbdcopy", "mkfs.ext4"):
        assert shutil.which(program), f"there is no {program}: run ./scripts/setup --for test"
    assert (ROOT / ".venv/bin/blockpaird").exists(), "there is no .venv: run ./scripts/setup"
    # Nothing of this shell's: a BLOCKPAIR_DIR of its own would lead elsewhere.
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp"}
    with tempfile.TemporaryFile("w+") as said:
        end: object = f"not at its end after {_LONGEST_S} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            end = subprocess.run(
                [*_OWN, before() + quick_start.commands()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_LONGEST_S,
            ).returncode
        said.seek(0)
        assert end == 0, said.read()
