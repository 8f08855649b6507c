"""``[notify]`` of blockpair.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blockpair.config.files import ConfigError
from blockpair.config.node import NodeConfig, read_node


def read(tmp_path: Path, text: str) -> NodeConfig:
    file = tmp_path / "blockpair.toml"
    file.write_text(f'[node]\nname = "a"\n{text}')
    return read_node(file)


def test_the_defaults_are_those_of_what_they_are_for(tmp_path: Path) -> None:
    config = read(tmp_path, "[notify]\n")
    assert config.notify.hooks is not None and config.notify.hooks.timeout == 30.0
    assert config.notify.webhooks == {} and config.notify.mail is None


def test_what_is_given(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
[notify.hooks]
enabled = false
[notify.webhook.ops]
url = "https://example.org/x"
kinds = ["disk.*", "peer.lost"]
severity = "error"
[notify.mail]
host = "mail.example.org"
from = "a@example.org"
to = ["ops@example.org"]
""",
    )
    assert config.notify.hooks is None
    assert config.notify.webhooks["ops"].chosen.kinds == ("disk.*", "peer.lost")
    assert config.notify.mail is not None and config.notify.mail.port == 587
    assert config.notify.mail.sender == "a@example.org"


WEBHOOK = '[notify.webhook.x]\nurl = "https://h/x"\n'
MAIL = '[notify.mail]\nhost = "h"\nfrom = "a@h"\nto = ["b@h"]\n'


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ('[notify.hooks]\nkinds = ["disc.*"]', "notify.hooks.kinds", "fits no kind"),
        ("[notify.hooks]\nkinds = []", "notify.hooks.kinds", "there are none"),
        ('[notify.hooks]\ntimeout = "1h"', "notify.hooks.timeout", "1 s to 10 min"),
        ('[notify.webhook.x]\nurl = "ftp://h/"', "notify.webhook.x.url", "no http"),
        ('[notify.webhook.x]\nurl = "https://h:x/"', "notify.webhook.x.url", "no URL"),
        ('[notify.webhook."a/b"]\nurl = "https://h/"', "notify.webhook.a/b", "a/b"),
        (
            '[notify.webhook.x]\nurl = "http://h/"\ntoken_file = "/t"',
            "notify.webhook.x.token_file",
            "everybody",
        ),
        ('[notify.webhook.x]\nurl = "http://h/"\nca = "/t"', "notify.webhook.x.ca", "no certificate"),
        (WEBHOOK + 'ca = "relative"', "notify.webhook.x.ca", "not an absolute path"),
        (MAIL.replace('"h"', '"h h"'), "notify.mail.host", "no host"),
        (MAIL.replace("b@h", "b"), "notify.mail.to", "no address"),
        (MAIL.replace('"a@h"', '"A <a@h>"'), "notify.mail.from", "no address"),
        (MAIL.replace('["b@h"]', "[]"), "notify.mail.to", "1 to 16"),
        (MAIL + 'user = "u"', "notify.mail.user", "go together"),
        (MAIL + 'user = "u"\npassword_file = "/p"\nsecurity = "off"', "notify.mail.security", "everybody"),
        (MAIL + "port = 70000", "notify.mail.port", "no port"),
    ],
)
def test_what_cannot_be_is_refused_with_file_key_reason_and_remedy(
    tmp_path: Path, text: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text + "\n")
    error: Any = caught.value
    assert error.key == key and words in error.reason and error.remedy
    assert str(tmp_path / "blockpair.toml") in error.message
