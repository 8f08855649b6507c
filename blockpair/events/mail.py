"""Delivers events by mail, each as a message."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Literal

from blockpair.events.event import Event, Filter
from blockpair.events.targets import NotDelivered, reason, secret

Security = Literal["starttls", "tls", "off"]


@dataclass(frozen=True)
class Mail:
    """The target ``to`` by way of the server ``host``. ``security``: TLS after STARTTLS, from the beginning,
    or none; ``timeout``: seconds, of each step.
    """

    host: str
    port: int
    security: Security
    sender: str
    to: tuple[str, ...]
    filter: Filter
    timeout: float
    ca: Path | None = None
    user: str = ""
    password_file: Path | None = None
    name: str = "mail"

    def wants(self, event: Event) -> bool:
        """As it is configured."""
        return self.filter.wants(event)

    def place(self) -> str:
        """To whom, by way of which server."""
        return f"{', '.join(self.to)} by way of {self.host}:{self.port}"

    def send(self, event: Event, ended: Callable[[], bool]) -> None:
        """Hand the message to the server. Raises `NotDelivered`, also where it takes it for some only."""
        try:
            with self._server() as server:
                if self.password_file is not None:
                    server.login(self.user, secret(self.password_file))
                refused = server.send_message(message(event, self.sender, self.to))
        except smtplib.SMTPRecipientsRefused as error:
            raise self._refused(error.recipients) from None
        except smtplib.SMTPResponseException as error:
            said = error.smtp_error
            words = said.decode(errors="replace") if isinstance(said, bytes) else said
            raise NotDelivered(
                f"{self.host}:{self.port} answers {error.smtp_code} {words}"[:300],
                again=error.smtp_code < 500,
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise NotDelivered(
                f"{self.host}:{self.port}: its certificate is not valid: {error.verify_message}", again=True
            ) from None
        except (OSError, smtplib.SMTPException) as error:
            raise NotDelivered(f"{self.host}:{self.port}: {reason(error)}", again=True) from None
        if refused:
            raise self._refused(refused)

    def _server(self) -> smtplib.SMTP:
        if self.security == "off":
            return smtplib.SMTP(self.host, self.port, timeout=self.timeout)
        context = ssl.create_default_context(cafile=self.ca)
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout, context=context)
        server = smtplib.SMTP(self.host, self.port, timeout=self.timeout)
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
        return server

    def _refused(self, recipients: dict[str, tuple[int, bytes]]) -> NotDelivered:
        told = ", ".join(
            f"{to}: {code} {words.decode(errors='replace')}" for to, (code, words) in recipients.items()
        )
        # Where some have it, it is not sent again for the sake of the others.
        again = len(recipients) == len(self.to) and all(code < 500 for code, _ in recipients.values())
        return NotDelivered(f"{self.host}:{self.port} refuses {told}"[:300], again=again)


def message(event: Event, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """The event as a message for a person."""
    about = f" {event.resource}" if event.resource else ""
    made = EmailMessage()
    made["From"] = sender
    made["To"] = ", ".join(to)
    subject = f"[blockpair] {event.node}{about}: {event.severity}: {event.text}"
    made["Subject"] = " ".join(subject.split())[:200]
    made["Date"] = format_datetime(datetime.fromisoformat(event.time))
    # The same event, sent twice, is the same message.
    made["Message-ID"] = (
        f"<{event.time.translate(str.maketrans('', '', '-:.'))}.{event.seq}@{event.node}.blockpair>"
    )
    made["Auto-Submitted"] = "auto-generated"
    rows = [
        ("What", event.text),
        ("When", event.time),
        ("Where", f"node {event.node}" + (f", resource {event.resource}" if event.resource else "")),
        ("Why", event.why),
        ("Next", event.next),
        ("Kind", f"{event.what} ({event.severity}), event {event.seq}"),
        *((key, value) for key, value in sorted(event.fields.items())),
    ]
    made.set_content("".join(f"{key}: {value}\n" for key, value in rows if value))
    return made
