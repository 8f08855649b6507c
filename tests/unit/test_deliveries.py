"""Programs, URLs and mail: real ones, and couriers that lose nothing."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockpair.events.courier import Courier
from blockpair.events.event import Event, Filter
from blockpair.events.files import Writer
from blockpair.events.hooks import Hooks
from blockpair.events.mail import Mail
from blockpair.events.post import try_all
from blockpair.events.stream import Stream
from blockpair.events.targets import NotDelivered, Target, pause
from blockpair.events.webhook import Webhook
from blockpair.units import utc
from tests.e2e.etcd import Authority
from tests.receivers import HttpReceiver, SmtpReceiver


def event(**more: Any) -> Event:
    given: dict[str, Any] = {
        "seq": 7,
        "time": utc(datetime.now(UTC)),
        "node": "a",
        "severity": "warning",
        "what": "peer.lost",
        "text": "the connection to b ended: ü",
        "why": "it is cut",
        "next": "see that b is up",
        "resource": "r0",
        "peer": "b",
    }
    return Event(**{**given, **more})


def never() -> bool:
    return False


def hook(folder: Path, name: str, script: str, mode: int = 0o755) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(mode)
    return file


def hooks(folder: Path, timeout: float = 20.0) -> Hooks:
    return Hooks(folder, Filter(), timeout)


def failure(work: Callable[[], None]) -> NotDelivered:
    with pytest.raises(NotDelivered) as caught:
        work()
    return caught.value


def test_a_hook_is_given_the_event_and_a_clean_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    os.environ["UNWANTED"] = "x"
    hook(tmp_path / "d", "10-first", f"cat > {out}.json; env > {out}.env")
    sent = event()
    hooks(tmp_path / "d").send(sent, never)
    told = json.loads(Path(f"{out}.json").read_text())
    assert told["what"] == "peer.lost" and told["text"] == sent.text and told["next"] == sent.next
    found = dict(line.split("=", 1) for line in Path(f"{out}.env").read_text().splitlines())
    assert found["BLOCKPAIR_EVENT"] == "peer.lost" and found["BLOCKPAIR_RESOURCE"] == "r0"
    assert found["BLOCKPAIR_NEXT"] == "see that b is up" and found["BLOCKPAIR_SEQ"] == "7"
    assert "UNWANTED" not in found and found["PATH"]


def test_the_rules_of_run_parts(tmp_path: Path) -> None:
    folder, log = tmp_path / "d", tmp_path / "log"
    for name in ("20-second", "10-first", "B", "a", "x.sh", "y~", ".z", "30-off"):
        hook(folder, name, f"echo {name} >> {log}", mode=0o644 if name == "30-off" else 0o755)
    (folder / "directory").mkdir()
    (folder / "link").symlink_to(folder / "x.sh")
    hooks(folder).send(event(), never)
    assert log.read_text().split() == ["10-first", "20-second", "B", "a", "x.sh"]
    assert hooks(folder).wants(event()) and not hooks(tmp_path / "nothing").wants(event())
    hooks(tmp_path / "nothing").send(event(), never)


def test_a_hook_that_fails_is_named_with_its_words_and_the_others_run(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    hook(folder, "10-bad", "echo it is broken >&2; exit 3")
    hook(folder, "15-silent", "exit 4")
    hook(folder, "20-good", f"touch {tmp_path}/done")
    (folder / "30-no-program").write_text("#!/no/such/program\n")
    (folder / "30-no-program").chmod(0o755)
    error = failure(lambda: hooks(folder).send(event(), never))
    assert error.why.startswith(
        "10-bad: it is broken; 15-silent: it ended with 4; 30-no-program: it cannot be run"
    )
    assert not error.again and (tmp_path / "done").exists()


def test_a_hook_that_others_may_write_is_not_run(tmp_path: Path) -> None:
    hook(tmp_path / "d", "10-open", f"touch {tmp_path}/done", mode=0o757)
    error = failure(lambda: hooks(tmp_path / "d").send(event(), never))
    assert "others may write it" in error.why and not (tmp_path / "done").exists()


def test_a_hook_that_hangs_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    hook(tmp_path / "d", "10-hangs", f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid; wait; wait")
    begun = time.monotonic()
    error = failure(lambda: hooks(tmp_path / "d", timeout=0.5).send(event(), never))
    assert "took more than 0.5 s" in error.why and time.monotonic() - begun < 10
    pid = int((tmp_path / "pid").read_text())
    # It was killed; how soon it is gone is the kernel's, and whether it is buried its parent's.
    until(lambda: state_of(pid) in ("", "Z"))


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_hook_ends_with_the_daemon(tmp_path: Path) -> None:
    hook(tmp_path / "d", "10-slow", "exec sleep 1000")
    error = failure(lambda: hooks(tmp_path / "d").send(event(), lambda: True))
    assert "with the daemon" in error.why


def test_what_a_hook_leaves_running_is_not_waited_for_and_what_it_says_takes_no_memory(
    tmp_path: Path,
) -> None:
    hook(
        tmp_path / "d",
        "10-talks",
        f"sleep 1000 2>&2 & echo $! > {tmp_path}/pid; head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1",
    )
    begun = time.monotonic()
    error = failure(lambda: hooks(tmp_path / "d").send(event(), never))
    assert len(error.why) < 2100 and time.monotonic() - begun < 15
    os.kill(int((tmp_path / "pid").read_text()), 9)


def webhook(url: str, **more: Any) -> Webhook:
    return Webhook("webhook ops", url, Filter(), 5.0, **more)


def test_a_url_is_given_json_with_what_tells_repetitions_apart(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    sent = event()
    with HttpReceiver() as receiver:
        webhook(receiver.url, token_file=token).send(sent, never)
    assert receiver.bodies[0]["text"] == sent.text and receiver.bodies[0]["seq"] == 7
    [headers] = receiver.headers
    assert headers["Authorization"] == "Bearer s3cret" and headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == f"a-7-{sent.time}" and headers["User-Agent"].startswith("blockpair/")


@pytest.mark.parametrize(
    ("status", "again"), [(500, True), (503, True), (429, True), (408, True), (404, False), (302, False)]
)
def test_what_a_server_answers_says_whether_it_is_tried_again(status: int, again: bool) -> None:
    with HttpReceiver(lambda _: status) as receiver:
        error = failure(lambda: webhook(receiver.url).send(event(), never))
    assert error.again is again and str(status) in error.why
    # The path may be the secret by which one may post there.
    assert "team=" not in error.why and "/hook" not in error.why and receiver.requests == 1


def test_a_server_that_is_not_there_is_tried_again() -> None:
    with HttpReceiver() as receiver:
        url = receiver.url
    error = failure(lambda: webhook(url).send(event(), never))
    assert error.again and "Connection refused" in error.why


def test_the_certificate_of_a_server_is_checked(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "x"), Authority(tmp_path / "y")
    server = authority.issue("server")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(server.cert, server.key)
    with HttpReceiver(tls=tls) as receiver:
        webhook(receiver.url, ca=authority.ca).send(event(), never)
        for given in (other.ca, None):
            error = failure(lambda given=given: webhook(receiver.url, ca=given).send(event(), never))  # type: ignore[misc]
            assert "certificate is not valid" in error.why and error.again
    assert len(receiver.bodies) == 1


def mail(port: int, **more: Any) -> Mail:
    return Mail("127.0.0.1", port, "off", "a@x.org", ("ops@x.org", "boss@x.org"), Filter(), 5.0, **more)


def test_a_mail_says_what_when_why_and_what_to_do() -> None:
    with SmtpReceiver() as receiver:
        mail(receiver.port).send(event(text="broken\nSubject: forged"), never)
    [text] = receiver.messages
    assert "Subject: [blockpair] a r0: warning: broken Subject: forged\r\n" in text
    assert (
        "Why: it is cut\r\n" in text and "Next: see that b is up\r\n" in text and "\r\nWhat: broken" in text
    )
    assert "To: ops@x.org, boss@x.org\r\n" in text and "Auto-Submitted: auto-generated\r\n" in text
    assert "Message-ID: <" in text and ".7@a.blockpair>" in text


def test_a_mail_server_that_refuses_for_good_is_not_asked_again() -> None:
    for answer, again in (("550 nobody here", False), ("451 later", True)):
        with SmtpReceiver(lambda _, answer=answer: answer) as receiver:  # type: ignore[misc]
            error = failure(lambda: mail(receiver.port).send(event(), never))
        assert error.again is again and answer[4:] in error.why
    # Who has it does not get it again for the sake of another.
    with SmtpReceiver(lambda word: "451 later" if "boss" in word else None) as receiver:
        error = failure(lambda: mail(receiver.port).send(event(), never))
    assert not error.again and "boss@x.org" in error.why and len(receiver.messages) == 1


def test_starttls_is_not_done_without() -> None:
    with SmtpReceiver() as receiver:
        target = Mail("127.0.0.1", receiver.port, "starttls", "a@x.org", ("ops@x.org",), Filter(), 5.0)
        assert failure(lambda: target.send(event(), never)).again
    assert receiver.messages == []


def test_a_test_of_all_says_of_each_what_became_of_it(tmp_path: Path) -> None:
    with HttpReceiver() as receiver, HttpReceiver(lambda _: 404) as broken:
        chosen: list[Target] = [hooks(tmp_path / "none"), webhook(receiver.url), webhook(broken.url)]
        tried = try_all(chosen, "a")
    assert [one.problem is None for one in tried] == [True, False]
    assert receiver.bodies[0]["what"] == "notify.test"


@given(st.integers(1, 10_000))
def test_pauses_grow_and_are_bounded(failures: int) -> None:
    least, most = pause(failures, lambda: 0.0), pause(failures, lambda: 1.0)
    assert 0.8 <= least <= most <= 300.0
    assert pause(failures + 1, lambda: 1.0) >= most
    assert pause(1, lambda: 1.0) == 1.0 and pause(10, lambda: 1.0) == 300.0


class Recipient:
    """A target that fails as it is told."""

    name = "webhook x"

    def __init__(self, chosen: Filter | None = None) -> None:
        self._filter = chosen or Filter()
        self.had: list[int] = []
        self.failures: list[NotDelivered] = []
        self.hold: Flag | None = None
        self.reached = Flag()

    def wants(self, event: Event) -> bool:
        return self._filter.wants(event)

    def place(self) -> str:
        return "here"

    def send(self, event: Event, ended: Callable[[], bool]) -> None:
        self.reached.set()
        if self.hold is not None:
            while not self.hold.wait(0.01):
                if ended():
                    raise NotDelivered("ended", again=True)
        if self.failures:
            raise self.failures.pop(0)
        self.had.append(event.seq)


class World:
    """A stream, and couriers that come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stream = Stream(folder / "events", "a")
        self.stream.start()
        self.told: list[tuple[str, str]] = []

    def put(self, count: int, what: str = "peer.lost", **more: str) -> None:
        # Each of another resource: what repeats itself is held back.
        before = self.stream.stable
        for number in range(count):
            self.stream.take(
                {"event": what, "level": "info", "text": "x", "resource": f"r{before + number}", **more}
            )
        assert self.stream.wait(before + count - 1, 20, never)

    def tell(self, severity: str, what: str, text: str, /, **fields: object) -> None:
        self.told.append((what, str(fields.get("why", ""))))

    @contextmanager
    def courier(self, target: Recipient, **more: Any) -> Iterator[Courier]:
        made = Courier(
            target, self.stream, self.folder / "cursor.json", self.tell, pause=lambda _: 0.001, **more
        )
        made.start()
        try:
            yield made
        finally:
            made.stop()
            made.join(20.0)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.stream.close()


def test_a_courier_begins_with_what_happens_after_it_was_set_up(world: World) -> None:
    world.put(3)
    target = Recipient()
    with world.courier(target):
        # Its note is made when it has begun.
        until((world.folder / "cursor.json").exists)
        world.put(2)
        until(lambda: target.had == [4, 5])


def test_a_courier_goes_on_where_the_one_before_it_stopped(world: World) -> None:
    target = Recipient()
    with world.courier(target):
        until((world.folder / "cursor.json").exists)
        world.put(2)
        until(lambda: len(target.had) == 2)
        target.hold = Flag()
        target.reached.clear()
        world.put(3)
        assert target.reached.wait(20)
    assert target.had == [1, 2] and world.told == []
    again = Recipient()
    with world.courier(again):
        until(lambda: again.had == [3, 4, 5])


def test_a_failure_is_told_once_and_its_end_too_and_nothing_is_lost(world: World) -> None:
    target = Recipient()
    with world.courier(target):
        until((world.folder / "cursor.json").exists)
        target.failures = [NotDelivered(f"down {n}", again=True) for n in range(20)]
        world.put(3)
        until(lambda: target.had == [1, 2, 3])
    assert world.told == [("notify.failed", "down 0"), ("notify.works", "")]


def test_what_is_refused_for_good_does_not_hold_up_the_rest(world: World) -> None:
    target = Recipient()
    with world.courier(target):
        until((world.folder / "cursor.json").exists)
        target.failures = [NotDelivered("404", again=False)]
        world.put(2)
        until(lambda: target.had == [2])
    assert world.told == [("notify.failed", "404"), ("notify.given-up", "404"), ("notify.works", "")]


def test_an_error_that_nobody_foresaw_ends_no_delivery(world: World) -> None:
    class Broken(Recipient):
        def send(self, event: Event, ended: Callable[[], bool]) -> None:
            if event.seq == 1:
                raise ValueError("bug")
            super().send(event, ended)

    target = Broken()
    with world.courier(target):
        until((world.folder / "cursor.json").exists)
        world.put(2)
        until(lambda: target.had == [2])
    assert "ValueError: bug" in world.told[0][1]


def test_what_is_older_than_a_day_is_given_up(world: World) -> None:
    target = Recipient()
    later = (datetime.now(UTC) + timedelta(days=2)).timestamp()
    with world.courier(target, now=lambda: later):
        until((world.folder / "cursor.json").exists)
        target.failures = [NotDelivered("down", again=True)]
        world.put(2)
        until(lambda: target.had == [2])
    assert ("notify.given-up", "down") in world.told


def test_events_that_it_is_not_for_pass_and_those_about_its_own_failure(world: World) -> None:
    target = Recipient(Filter(kinds=("disk.*", "notify.*")))
    with world.courier(target):
        until((world.folder / "cursor.json").exists)
        world.put(2)
        world.put(1, "notify.failed", target="webhook x")
        world.put(1, "notify.failed", target="mail")
        world.put(1, "disk.error")
        until(lambda: target.had == [4, 5])


def test_events_that_are_gone_are_told_of(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "events", file_bytes=400, files=2)
    for _ in range(30):
        writer.append([event(seq=0)])
    writer.close()
    (tmp_path / "cursor.json").write_text('{"delivered": 3}')
    world = World(tmp_path)
    target = Recipient()
    with world.courier(target):
        until(lambda: bool(target.had) and target.had[-1] == 30)
    world.stream.close()
    assert [what for what, _ in world.told] == ["notify.skipped"] and target.had[0] > 4
    # A note of a stream that is no more says nothing.
    for note in ('{"delivered": 99}', "torn{", '{"delivered": "x"}', "[]"):
        (tmp_path / "cursor.json").write_text(note)
        again = World(tmp_path)
        late = Recipient()
        with again.courier(late):
            until(lambda: (tmp_path / "cursor.json").read_text() == '{"delivered": 30}\n')
        again.stream.close()
        assert late.had == []
