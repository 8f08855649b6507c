"""``[metrics]`` of ``blockpair.toml``: where Prometheus may ask this node."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from blockpair.config.files import ConfigError
from blockpair.config.names import Address, parse_address

DEFAULT_PORT = 9101


class MetricsTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[metrics]``. ``listen``: empty where nobody may ask."""

    listen: str = ""


def metrics_address(table: MetricsTable, file: Path) -> Address | None:
    """Where the metrics are served; None: nowhere. Raises `ConfigError`."""
    if not table.listen:
        return None
    try:
        return parse_address(table.listen, any_port=True)
    except ValueError as error:
        raise ConfigError(
            file,
            "metrics.listen",
            str(error),
            f'write it as listen = "127.0.0.1:{DEFAULT_PORT}", or leave it out to serve no metrics',
        ) from None
