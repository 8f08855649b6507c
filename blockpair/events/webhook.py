"""Delivers events to a URL, as JSON."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from blockpair import __version__
from blockpair.events.event import Event, Filter, encode
from blockpair.events.targets import NotDelivered, reason, secret

_MOST_ANSWER = 4096
# Too early, too many at once, or the server's own trouble.
_LATER = (408, 425, 429)


@dataclass(frozen=True)
class Webhook:
    """The target ``url``, by POST. ``ca``: a file of authorities instead of the system's; ``token_file``:
    what is sent as bearer token. ``timeout``: seconds, of each step. The URL itself may be a secret, and is
    told to nobody.
    """

    name: str
    url: str
    filter: Filter
    timeout: float
    ca: Path | None = None
    token_file: Path | None = None

    def wants(self, event: Event) -> bool:
        """As it is configured."""
        return self.filter.wants(event)

    def place(self) -> str:
        """The server."""
        at = urlsplit(self.url)
        return f"{at.scheme}://{at.netloc.rpartition('@')[2]}"

    def send(self, event: Event, ended: Callable[[], bool]) -> None:
        """Deliver it; anything but an answer of 200 to 299 is a failure. Raises `NotDelivered`."""
        at, place = urlsplit(self.url), self.place()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"blockpair/{__version__}",
            # Who receives an event twice knows it by this.
            "Idempotency-Key": f"{event.node}-{event.seq}-{event.time}",
            **self._authorization(),
        }
        path = (at.path or "/") + (f"?{at.query}" if at.query else "")
        connection = self._connection(at.scheme, at.hostname or "", at.port)
        try:
            connection.request("POST", path, body=encode(event), headers=headers)
            answer = connection.getresponse()
            answer.read(_MOST_ANSWER)
        except ssl.SSLCertVerificationError as error:
            raise NotDelivered(
                f"{place}: its certificate is not valid: {error.verify_message}", again=True
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotDelivered(f"{place}: {reason(error)}", again=True) from None
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise NotDelivered(
                f"{place} answers {answer.status} {answer.reason}"[:200],
                again=answer.status >= 500 or answer.status in _LATER,
            )

    def _authorization(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        return {"Authorization": f"Bearer {secret(self.token_file)}"}

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self.timeout)
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise NotDelivered(f"{self.ca} cannot be used: {error.strerror or error}", again=True) from None
        return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=context)
