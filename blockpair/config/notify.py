"""``[notify]`` of ``blockpair.toml``: to whom and what events are delivered."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from dataclasses import field as data_field
from email.utils import parseaddr
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct, field

from blockpair.config.files import ConfigError
from blockpair.config.names import NAME_RULE, check_name
from blockpair.events.catalogue import KINDS
from blockpair.events.event import Filter, Severity
from blockpair.units import parse_duration

Security = Literal["starttls", "tls", "off"]
_PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "off": 25}
_LONGEST_SECONDS = 600.0
_MOST_WEBHOOKS = 8
_MOST_RECIPIENTS = 16


class HooksTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[notify.hooks]``: programs in ``hooks.d`` beside the configuration."""

    enabled: bool = True
    severity: Severity = "info"
    kinds: list[str] = field(default_factory=lambda: ["*"])
    timeout: str = "30s"


class WebhookTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[notify.webhook.NAME]``. ``ca``: a file of authorities instead of the system's; ``token_file``: a
    file with what is sent as bearer token.
    """

    url: str
    severity: Severity = "warning"
    kinds: list[str] = field(default_factory=lambda: ["*"])
    timeout: str = "10s"
    ca: str = ""
    token_file: str = ""


class MailTable(Struct, forbid_unknown_fields=True, frozen=True, rename={"sender": "from"}):
    """``[notify.mail]``. ``port`` 0: the usual one of ``security``."""

    host: str
    sender: str
    to: list[str]
    port: int = 0
    security: Security = "starttls"
    user: str = ""
    password_file: str = ""
    ca: str = ""
    severity: Severity = "warning"
    kinds: list[str] = field(default_factory=lambda: ["*"])
    timeout: str = "30s"


class NotifyTable(Struct, forbid_unknown_fields=True, frozen=True):
    """``[notify]``."""

    hooks: HooksTable = field(default_factory=HooksTable)
    webhook: dict[str, WebhookTable] = field(default_factory=dict)
    mail: MailTable | None = None


@dataclass(frozen=True)
class HooksConfig:
    """Checked. ``chosen``: for which events; ``timeout``: seconds for each program."""

    chosen: Filter = data_field(default_factory=Filter)
    timeout: float = 30.0


@dataclass(frozen=True)
class WebhookConfig:
    """Checked; ``timeout`` in seconds."""

    url: str
    chosen: Filter
    timeout: float
    ca: Path | None = None
    token_file: Path | None = None


@dataclass(frozen=True)
class MailConfig:
    """Checked; ``timeout`` in seconds."""

    host: str
    port: int
    security: Security
    sender: str
    to: tuple[str, ...]
    chosen: Filter
    timeout: float
    ca: Path | None = None
    user: str = ""
    password_file: Path | None = None


@dataclass(frozen=True)
class NotifyConfig:
    """Checked. ``hooks``: None where they are off."""

    hooks: HooksConfig | None = data_field(default_factory=HooksConfig)
    webhooks: dict[str, WebhookConfig] = data_field(default_factory=dict)
    mail: MailConfig | None = None


def notify_config(table: NotifyTable, file: Path) -> NotifyConfig:
    """The table of ``file``, checked. Raises `ConfigError`."""
    check = _Check(file)
    hooks = None
    if table.hooks.enabled:
        key = "notify.hooks"
        hooks = HooksConfig(check.chosen(key, table.hooks), check.timeout(key, table.hooks.timeout, "30s"))
    if len(table.webhook) > _MOST_WEBHOOKS:
        raise ConfigError(
            file, "notify.webhook", f"there are more than {_MOST_WEBHOOKS}", "have one hand the events on"
        )
    webhooks = {name: check.webhook(name, entry) for name, entry in table.webhook.items()}
    return NotifyConfig(hooks, webhooks, None if table.mail is None else check.mail(table.mail))


class _Check:
    def __init__(self, file: Path) -> None:
        self._file = file

    def webhook(self, name: str, table: WebhookTable) -> WebhookConfig:
        key = f"notify.webhook.{name}"
        try:
            check_name(name)
        except ValueError as error:
            raise self._wrong(key, str(error), f"choose another name: {NAME_RULE}") from None
        example = 'write it as url = "https://HOST/PATH"'
        try:
            at = urlsplit(table.url)
            host, _ = at.hostname, at.port
        except ValueError as error:
            raise self._wrong(f"{key}.url", f"it is no URL: {error}", example) from None
        plain = at.scheme == "http"
        if at.scheme not in ("http", "https") or not host or not table.url.isascii() or " " in table.url:
            raise self._wrong(f"{key}.url", "it is no http or https URL", example)
        if plain and table.token_file and not _here(host):
            raise self._wrong(
                f"{key}.token_file", "the token would cross the network for everybody to read", example
            )
        if plain and table.ca:
            raise self._wrong(f"{key}.ca", "there is no certificate to check with http", example)
        return WebhookConfig(
            table.url,
            self.chosen(key, table),
            self.timeout(key, table.timeout, "10s"),
            self._path(f"{key}.ca", table.ca),
            self._path(f"{key}.token_file", table.token_file),
        )

    def mail(self, table: MailTable) -> MailConfig:
        key = "notify.mail"
        if not re.fullmatch(r"[A-Za-z0-9.:-]+", table.host):
            raise self._wrong(
                f"{key}.host", f"{table.host!r} is no host", 'write it as host = "mail.example.org"'
            )
        if not 0 <= table.port <= 65535:
            raise self._wrong(f"{key}.port", f"{table.port} is no port", "leave it out for the usual one")
        if not 1 <= len(table.to) <= _MOST_RECIPIENTS:
            raise self._wrong(
                f"{key}.to", f"there must be 1 to {_MOST_RECIPIENTS}", 'write it as to = ["ops@example.org"]'
            )
        for which, address in (("from", table.sender), *(("to", one) for one in table.to)):
            if parseaddr(address)[1] != address or not re.fullmatch(r"[!-~]+@[A-Za-z0-9.-]+", address):
                raise self._wrong(
                    f"{key}.{which}", f"{address!r} is no address", 'write it as "ops@example.org"'
                )
        if bool(table.user) != bool(table.password_file):
            raise self._wrong(f"{key}.user", "user and password_file go together", "give both, or neither")
        if table.user and table.security == "off" and not _here(table.host):
            raise self._wrong(
                f"{key}.security",
                "the password would cross the network for everybody to read",
                'set security = "starttls" or "tls"',
            )
        return MailConfig(
            table.host,
            table.port or _PORTS[table.security],
            table.security,
            table.sender,
            tuple(table.to),
            self.chosen(key, table),
            self.timeout(key, table.timeout, "30s"),
            self._path(f"{key}.ca", table.ca),
            table.user,
            self._path(f"{key}.password_file", table.password_file),
        )

    def chosen(self, key: str, table: HooksTable | WebhookTable | MailTable) -> Filter:
        if not table.kinds:
            raise self._wrong(f"{key}.kinds", "there are none", 'write kinds = ["*"] for all')
        for pattern in table.kinds:
            if not any(fnmatchcase(kind, pattern) for kind in KINDS):
                raise self._wrong(
                    f"{key}.kinds",
                    f"{pattern!r} fits no kind of event",
                    'take one of docs/events.md, or a pattern such as "disk.*"',
                )
        return Filter(table.severity, tuple(table.kinds))

    def timeout(self, key: str, text: str, default: str) -> float:
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise self._wrong(f"{key}.timeout", str(error), f'write it as timeout = "{default}"') from None
        if not 1 <= seconds <= _LONGEST_SECONDS:
            raise self._wrong(
                f"{key}.timeout", f"{text} is not from 1 s to 10 min", f'write it as timeout = "{default}"'
            )
        return seconds

    def _path(self, key: str, text: str) -> Path | None:
        if not text:
            return None
        if not text.startswith("/") or "\0" in text:
            raise self._wrong(key, f"{text!r} is not an absolute path", "write the whole path of the file")
        return Path(text)

    def _wrong(self, key: str, reason: str, remedy: str) -> ConfigError:
        return ConfigError(self._file, key, reason, remedy)


def _here(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
