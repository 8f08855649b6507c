"""``[health]``, ``[notify]`` and ``[raid]`` of blockpair.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blockpair.config.files import ConfigError
from blockpair.config.node import NodeConfig, read_node
from blockpair.config.raid import RaidConfig
from blockpair.health.handover import Policy
from blockpair.health.score import DEFAULT_SCALES
from blockpair.raid.rules import Rules


def read(tmp_path: Path, text: str) -> NodeConfig:
    file = tmp_path / "blockpair.toml"
    file.write_text(f'[node]\nname = "a"\n{text}')
    return read_node(file)


def test_the_defaults_are_those_of_what_they_are_for(tmp_path: Path) -> None:
    config = read(tmp_path, "[health]\n[notify]\n")
    assert (
        config.health.policy == Policy()
        and config.health.scales == DEFAULT_SCALES
        and config.health.hand_over
    )
    assert config.notify.hooks is not None and config.notify.hooks.timeout == 30.0
    assert config.notify.webhooks == {} and config.notify.mail is None


def test_what_is_given(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
[health]
hand_over = "off"
sick_below = 50
patience = "5m"
switchovers_a_day = 1
[health.parts.cpu]
bad = 95
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
    assert not config.health.hand_over and config.health.policy.sick_below == 50.0
    assert (config.health.policy.patience, config.health.policy.most) == (300.0, 1)
    assert config.health.scales["cpu"].bad == 95 and config.health.scales["cpu"].good == 10
    assert config.notify.hooks is None
    assert config.notify.webhooks["ops"].chosen.kinds == ("disk.*", "peer.lost")
    assert config.notify.mail is not None and config.notify.mail.port == 587
    assert config.notify.mail.sender == "a@example.org"


def test_the_rules_for_arrays(tmp_path: Path) -> None:
    assert read(tmp_path, "").raid == RaidConfig(None, Rules())
    given = """
[raid]
watch = "on"
heal = "off"
replace_at = 0
rebuild_latency = "20ms"
scrub_days = 30
scrub_hours = "22-6"
adopt.data = ["pci-0000:03:00.0-sas-phy*-lun-0"]
"""
    rules = Rules(False, 0, 20.0, 30 * 86400.0, (22, 6), {"data": ("pci-0000:03:00.0-sas-phy*-lun-0",)})
    assert read(tmp_path, given).raid == RaidConfig(True, rules)


WEBHOOK = '[notify.webhook.x]\nurl = "https://h/x"\n'
MAIL = '[notify.mail]\nhost = "h"\nfrom = "a@h"\nto = ["b@h"]\n'


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ('[health]\nhand_over = "maybe"', "health.hand_over", "none of its values"),
        ("[health]\nsick_below = 70", "health.recovered_above", "must be less"),
        ("[health]\nmargin = 0", "health.margin", "no score"),
        ("[health]\nsick_below = nan", "health.sick_below", "no score"),
        ('[health]\npatience = "1s"', "health.patience", "from 30 s to a week"),
        ('[health]\ndwell = "soon"', "health.dwell", "not a duration"),
        ("[health]\nswitchovers_a_day = 0", "health.switchovers_a_day", "1 to 24"),
        ("[health.parts.gpu]\ngood = 1", "health.parts.gpu", "no such part"),
        ("[health.parts.cpu]\ngood = 90", "health.parts.cpu", "must be more than good"),
        (
            "[health.parts.memory-available]\nbad = 50",
            "health.parts.memory-available",
            "must be less than good",
        ),
        ("[health.parts.cpu]\nweight = 0", "health.parts.cpu", "weight is more than 0"),
        ("[health.parts.cpu]\nbad = inf", "health.parts.cpu", "finite"),
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
        ('[raid]\nwatch = "perhaps"', "raid.watch", "none of its values"),
        ("[raid]\nreplace_at = 100", "raid.replace_at", "0 (never) to 99"),
        ('[raid]\nrebuild_latency = "fast"', "raid.rebuild_latency", "not a duration"),
        ('[raid]\nrebuild_latency = "0s"', "raid.rebuild_latency", "from 1 ms"),
        ("[raid]\nscrub_days = 400", "raid.scrub_days", "neither 0 nor"),
        ('[raid]\nscrub_hours = "5-5"', "raid.scrub_hours", "two different hours"),
        ('[raid]\nscrub_hours = "1:00"', "raid.scrub_hours", "two different hours"),
        ('[raid]\nadopt.data = ["*"]', "raid.adopt.data", "any disk"),
        ("[raid]\nadopt.data = []", "raid.adopt.data", "must list places"),
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
