"""The reference of the formats is the engine's own text; the engine's tests compare that with its code."""

from __future__ import annotations

import reference

PAGES = reference.PAGES
MAKE = "run: python scripts/reference.py"


def test_the_protocol_s_page_is_made_from_the_code() -> None:
    page = (PAGES / "wire.md").read_text()
    assert page == reference.wire(reference.kinds_of(page)), MAKE
    assert "`header_check`" in page and "**VerifyChunk**: XXH3-128" in page


def test_the_disk_s_page_is_made_from_the_code() -> None:
    page = (PAGES / "disk.md").read_text()
    assert page == reference.disk(), MAKE
    assert "`blkpair` and a zero byte" in page and "`BPpg`" in page
