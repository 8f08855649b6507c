"""The engine's architecture invariants that a look at its imports can check (docs/architecture.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "engine/src"
PURE = ("core", "meta", "wire", "session", "front", "bundle")
OUTSIDE_WORLD = re.compile(
    r"\b(?:std::(?:fs|net|thread|process|os::unix)\b|(?:Instant|SystemTime)::now|rand::|getrandom|libc::\w+\()"
)


def code(path: Path) -> str:
    """A source file without its comments and its test module, which ends a file."""
    text = re.sub(r"//[^\n]*", "", path.read_text())
    return text.split("#[cfg(test)]\nmod tests {")[0]


def files(module: str) -> list[Path]:
    found = [
        path
        for path in SOURCES.glob("**/*.rs")
        if path.relative_to(SOURCES).parts[0] in (module, f"{module}.rs")
    ]
    assert found, f"engine/src has no module {module}"
    return found


def offenders(module: str, pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(SOURCES)}: {match.group()}"
        for path in files(module)
        for match in pattern.finditer(code(path))
    ]


@pytest.mark.parametrize("module", PURE)
def test_nothing_pure_imports_the_driver(module: str) -> None:
    assert offenders(module, re.compile(r"\bcrate::io\b|\bsuper::super::io\b")) == []


@pytest.mark.parametrize("module", PURE)
def test_nothing_pure_touches_the_system(module: str) -> None:
    assert offenders(module, OUTSIDE_WORLD) == []


def test_only_one_file_knows_python() -> None:
    knowing = {
        str(path.relative_to(SOURCES))
        for path in SOURCES.glob("**/*.rs")
        if re.search(r"\bpyo3\b", code(path))
    }
    assert knowing <= {"py.rs"}


def test_the_pattern_finds_what_it_forbids(tmp_path: Path) -> None:
    bad = tmp_path / "bad.rs"
    bad.write_text(
        "// std::fs in a comment\nuse std::fs::File;\nfn f() { Instant::now(); unsafe { libc::close(3) } }\n"
    )
    assert [match.group() for match in OUTSIDE_WORLD.finditer(code(bad))] == [
        "std::fs",
        "Instant::now",
        "libc::close(",
    ]
