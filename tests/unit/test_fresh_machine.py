"""The fresh machine of ``scripts/docs test`` finds packages where this one does, and has no more of it."""

from __future__ import annotations

from pathlib import Path

import fresh_machine
import quick_start


def test_the_way_to_packages_is_all_that_is_taken_from_the_environment() -> None:
    way = {
        "PIP_INDEX_URL": "https://packages.example/simple",
        "CARGO_HTTP_CAINFO": "/etc/ssl/certs/ca.pem",
        "CARGO_REGISTRIES_CRATES_IO_PROTOCOL": "sparse",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca.pem",
        "https_proxy": "http://proxy.example:3128",
        "NO_PROXY": "localhost",
    }
    other = {"PIP_CACHE_DIR": "/var/cache/pip", "CARGO_HOME": "/home/me/.cargo", "BLOCKPAIR_DIR": "/tmp/a"}
    assert fresh_machine.way_environment({**way, **other}) == way


def test_files_and_folders_that_the_environment_names_are_found(tmp_path: Path) -> None:
    wheels, certificate = tmp_path / "wheels", tmp_path / "ca.pem"
    wheels.mkdir()
    certificate.touch()
    way = {
        "PIP_FIND_LINKS": f"https://packages.example/links file://{wheels} {tmp_path}/none",
        "SSL_CERT_DIR": f"{certificate}:/",
    }
    assert fresh_machine.way_paths(way) == [wheels, certificate]


def test_the_page_names_the_packages_of_the_programs_it_has_a_reader_run() -> None:
    assert quick_start.packages() == ["libnbd-bin"]
