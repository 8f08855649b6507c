"""The demonstration: two nodes, one disk, a crash, and every byte compared. Run it by ./scripts/demo."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from demo_files import Export, Hashes, ImageExport, MountedExport, choose, compare, sha256, tool
from demo_nodes import RESOURCE, DemoFailed, Node, Witness, free_ports, wait_for
from demo_service import ServicePart
from demo_story import Row, Story, size_text
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.markup import escape

MIB = 1 << 20
DOCUMENTATION = [
    Path("/usr/share/doc"),
    Path("/usr/share/common-licenses"),
    Path("/usr/share/zoneinfo"),
    Path("/usr/lib/python3"),
]
LATER = [Path(os.__file__).parent]


class Demo(Story):
    """The story. Each method is one chapter; they run in the order of `run`."""

    def __init__(self, console: Console, folder: Path, size_mib: int, mount: bool) -> None:
        super().__init__(console)
        self.folder = folder
        self.size = size_mib * MIB
        self.mount = mount
        self.expected: Hashes = {}
        self.nodes = [Node(name, folder / name, console) for name in ("a", "b")]
        self.witness = Witness(folder / "w", console)
        self.killed_at = 0.0
        self.export: Export | None = None
        self.in_flight = ""

    # -- chapters -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole story; raises `DemoFailed` at the first thing that is not as promised."""
        first, second = self.nodes
        self.two_nodes()
        self.one_cluster(first, second)
        self.a_file_system_on_the_primary(first)
        self.the_first_synchronisation(first, second)
        self.cut_off(first, second)
        self.crash(first)
        self.the_survivor_takes_over(second)
        self.the_old_primary_returns(first, second)
        self.both_copies(first, second)
        self.the_service_moves()

    def two_nodes(self) -> None:
        self.chapter(
            "Two nodes, and a witness",
            "Each node has its own folder (BLOCKPAIR_DIR), its own daemon and its own backing file. The\n"
            "witness keeps a few words: who may write. Here they share a machine and talk over loopback;\n"
            "usually they are two servers, and a small machine elsewhere.",
        )
        ports = free_ports(4)
        for node in self.nodes:
            node.folder.mkdir()
            with node.backing.open("wb") as handle:
                handle.truncate(self.size)
            node.configure("127.0.0.1", ports.pop(), ports.pop())
            node.start()
        self.witness.start()

    def one_cluster(self, first: Node, second: Node) -> None:
        self.chapter(
            "One cluster",
            "The first node makes the cluster's authority. A token lets the second one in, once; from then\n"
            "on they talk by TLS alone, and another lets the witness in. The resource is made on both with\n"
            "one command, and goes by the witness from the beginning.",
        )
        first.run("cluster", "init", "demo", "--address", "127.0.0.1")
        token = first.ask("cluster", "token")
        joined = ("cluster", "join", str(token["address"]), "-", "--address", "127.0.0.1")
        second.run(*joined, text=str(token["text"]))
        token = first.ask("cluster", "token")
        self.witness.join(str(token["address"]), str(token["text"]))
        settings = ("arbiter.kind=witness", f"arbiter.address=127.0.0.1:{self.witness.port}")
        first.run("config", "edit", *(word for setting in settings for word in ("--set", setting)))
        first.run(
            *("create", RESOURCE, "--no-up"),
            *("--on", ",".join(f"{node.name}={node.backing}" for node in self.nodes)),
            *("--metadata", ",".join(f"{node.name}={node.metadata}" for node in self.nodes)),
        )

    def a_file_system_on_the_primary(self, first: Node) -> None:
        self.chapter(
            "A file system on the primary",
            "Node a goes first. Nobody has data yet, so a person has to say whose copy counts: --force does.",
        )
        first.run("up", RESOURCE)
        first.run("promote", RESOURCE, "--force", "--yes")
        self.export = self.open_export(first)
        self.tell(f"ext4, {self.export.how}")
        self.export.make()
        files = choose(DOCUMENTATION, min(160 * MIB, self.size // 3))
        self.copied("files written on the primary alone", files, "doc")

    def the_first_synchronisation(self, first: Node, second: Node) -> None:
        self.chapter(
            "The first synchronisation",
            "Node b comes up with an empty disk and gets everything. The file system stays in use meanwhile.",
        )
        second.run("up", RESOURCE)
        first.run("sync", RESOURCE, "--wait")
        self.resynced("first synchronisation", first)
        self.both_up_to_date(first, second)
        second.run("status", RESOURCE)

    def cut_off(self, first: Node, second: Node) -> None:
        self.chapter(
            "The secondary is cut off",
            "The primary goes on alone and remembers which blocks the other one lacks. Reconnected,\n"
            "it sends just those.",
        )
        first.run("disconnect", RESOURCE)
        files = choose(LATER, self.size // 16)
        self.copied("files written while b is away", files, "later")
        dirty = int(first.peer()["out_of_sync_bytes"])
        if not 0 < dirty < self.size // 2:
            raise DemoFailed(f"the primary counts {dirty} bytes out of sync, which cannot be right")
        self.tell(f"out of sync now: {size_text(dirty)}")
        first.run("connect", RESOURCE)
        first.run("sync", RESOURCE, "--wait")
        sent = self.resynced("resynchronisation of just those", first)
        if sent > dirty * 1.2 + MIB:
            raise DemoFailed(f"the resync sent {sent} bytes for {dirty} bytes out of sync")
        self.both_up_to_date(first, second)

    def crash(self, first: Node) -> None:
        self.chapter(
            "The primary is killed",
            "An application writes small files and makes each durable (fsync) before the next. In the\n"
            "midst of that: kill -9.",
        )
        assert self.export is not None
        assert first.daemon is not None
        source = random.Random(20)
        wanted, acknowledged, written = (200 if self.export.journalled else 8), 0, 0

        def kill() -> None:
            self.killed_at = time.monotonic()
            first.kill()

        first.wait_for_in_sync_set()
        killer = threading.Thread(target=kill)
        began = time.monotonic()
        while True:
            name, content = f"orders/{acknowledged:05}", source.randbytes(source.randrange(1, 32768))
            # What is in flight at the crash may be there afterwards or not; what was acknowledged must be.
            self.in_flight = name
            if acknowledged == wanted and self.export.journalled:
                killer.start()
            if acknowledged == wanted and not self.export.journalled:
                break
            if not self.export.write_durably(name, content):
                break
            if acknowledged > wanted + 100000:
                raise DemoFailed("the primary was killed and writes still succeed")
            self.expected[name] = hashlib.sha256(content).hexdigest()
            acknowledged += 1
            written += len(content)
        seconds = time.monotonic() - began
        if killer.ident is None:
            killer.start()
        killer.join()
        self.show(f"kill -9 {first.daemon.pid}")
        self.measured(
            Row(
                "small durable writes before the crash",
                written,
                seconds,
                f"{acknowledged} files, each acknowledged by both nodes",
            )
        )
        self.export.close()
        self.export = None

    def the_survivor_takes_over(self, second: Node) -> None:
        self.chapter(
            "The survivor takes over",
            "Node b cannot know whether a is dead or merely out of reach, and two primaries would part the\n"
            "data. So it lets its word run out, and takes the next epoch at the witness: from then on a\n"
            "could complete nothing, dead or not. No person has to do anything.",
        )
        wait_for("node b takes over", 30, lambda: second.status()["role"] == "Primary")
        took = time.monotonic() - self.killed_at
        self.tell(f"primary {took:.1f} s after the kill, and seen to be so by `status`")
        self.rows.append(Row("from the kill to the survivor's being primary", None, took, "by itself"))
        second.run("status", RESOURCE, code=4)
        second.run("history", RESOURCE, "--limit", "4")
        self.export = self.open_export(second)
        began = time.monotonic()
        self.export.check()
        self.tell("fsck: clean")
        found = self.export.hashes()
        found.pop(self.in_flight, None)
        wrong = list(compare(self.expected, found))
        if wrong:
            raise DemoFailed(f"{len(wrong)} files are wrong on the survivor:\n  " + "\n  ".join(wrong[:10]))
        self.rows.append(
            Row(
                "fsck and SHA-256 of every file",
                None,
                time.monotonic() - began,
                f"{len(found)} files, all right",
            )
        )
        self.tell(f"{len(found)} files compared with their originals by SHA-256: all right")

    def the_old_primary_returns(self, first: Node, second: Node) -> None:
        self.chapter(
            "The old primary returns",
            "Its daemon is started again, finds that the world went on without it, and becomes secondary.",
        )
        first.start()
        second.run("sync", RESOURCE, "--wait")
        self.resynced("resynchronisation of the old primary", second)
        self.both_up_to_date(second, first)
        second.run("status", RESOURCE)

    def both_copies(self, first: Node, second: Node) -> None:
        self.chapter(
            "Both copies", "Both nodes are taken down; their backing files must be the same to the last byte."
        )
        assert self.export is not None
        self.export.close()
        self.export = None
        for node in (second, first):
            if node is second:
                node.run("demote", RESOURCE)
            node.run("down", RESOURCE)
            node.stop()
        began = time.monotonic()
        self.show(f"cmp {first.backing} {second.backing}")
        tool("cmp", first.backing, second.backing)
        self.tell(f"identical, SHA-256 {sha256(first.backing)}")
        self.rows.append(
            Row("comparison of both backing files", self.size, time.monotonic() - began, "identical")
        )

    def the_service_moves(self) -> None:
        reason = ServicePart.impossible()
        if reason is None:
            with ServicePart(self, self.folder) as part:
                part.run()
        else:
            self.console.print(
                f"\nLeft out: a virtual address that moves from node to node. {reason}", highlight=False
            )

    # -- steps ----------------------------------------------------------------------------------------------

    def open_export(self, node: Node) -> Export:
        """The export of the node that is Primary, mounted if this machine lets us."""
        socket = Path(node.report()["nbd_socket"])
        folder = self.folder / f"export-{node.name}"
        reason = MountedExport.possible() if self.mount else "asked not to mount"
        if reason is None:
            return MountedExport(socket, folder, self.show)
        self.tell(f"not mounted: {reason}")
        return ImageExport(socket, folder, self.size, self.show)

    def copied(self, what: str, files: Sequence[Path], below: str) -> None:
        """Copies files into the file system below one folder and remembers what they must be."""
        assert self.export is not None
        if not files:
            raise DemoFailed("this machine has none of the files that the demonstration copies")
        began = time.monotonic()
        hashes, copied = self.export.add(files, lambda path: below + str(path))
        self.expected.update(hashes)
        self.measured(Row(what, copied, time.monotonic() - began, f"{len(files)} files"))

    def resynced(self, what: str, node: Node) -> int:
        """Notes the resync that `node` and its peer have just finished; returns the bytes of data sent."""
        last = node.peer()["last_resync"]
        if last is None or not last["finished"]:
            raise DemoFailed(f"node {node.name} says that no resync has finished: {last}")
        note = f"{size_text(last['sent_bytes'])} sent, {size_text(last['same_bytes'])} found equal"
        self.measured(Row(what, int(last["total_bytes"]), float(last["elapsed_seconds"]), note))
        return int(last["sent_bytes"])

    def both_up_to_date(self, primary: Node, secondary: Node) -> None:
        """Both nodes must agree that both copies are good and equal."""
        for node in (primary, secondary):
            node.run("wait", RESOURCE, "--until", "synced", "--timeout", "15s")
        roles = primary.status()["role"], secondary.status()["role"]
        if roles != ("Primary", "Secondary"):
            raise DemoFailed(f"nodes {primary.name} and {secondary.name} are {' and '.join(roles)}")

    def clean_up(self) -> None:
        """Ends every process and undoes every mount of the demonstration; safe to call at any moment."""
        if self.export is not None:
            # A live primary under the file system lets it be unmounted in order, so the daemons go last.
            with contextlib.suppress(DemoFailed):
                self.export.close()
            self.export = None
        for node in self.nodes:
            node.stop()
        self.witness.stop()


@contextlib.contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Turns these signals into KeyboardInterrupt, so that cleaning up runs."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: list[tuple[signal.Signals, Callable[[int, FrameType | None], object] | int | None]] = [
        (each, signal.signal(each, interrupt)) for each in signals
    ]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)


def main() -> int:
    """Runs the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--size", type=int, default=512, metavar="MIB")
    parser.add_argument("--no-mount", action="store_true")
    parser.add_argument("--only-service", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_args()
    if not 64 <= options.size <= 65536:
        parser.error("--size takes 64 to 65536 MiB")
    if options.only_service and (reason := ServicePart.impossible()) is not None:
        print(f"scripts/demo: a virtual address cannot move here. {reason}", file=sys.stderr)
        return 1
    width = None if sys.stdout.isatty() and options.picture is None else 120
    console = Console(width=width, record=options.picture is not None)
    folder = Path(tempfile.mkdtemp(prefix="blockpair-demo-"))
    free = shutil.disk_usage(folder).free
    if free < 3 * options.size * MIB:
        console.print(
            f"{folder} has {size_text(free)} free, too little for --size {options.size}:"
            " set TMPDIR to a folder with more, or choose a smaller --size"
        )
        folder.rmdir()
        return 1
    demo = Demo(console, folder, options.size, not options.no_mount)
    began = time.monotonic()
    code = 1
    with interrupted_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        try:
            (demo.the_service_moves if options.only_service else demo.run)()
            code = 0
        except DemoFailed as failure:
            console.print(f"\n[bold red]Failed:[/] {escape(str(failure))}", highlight=False)
        except KeyboardInterrupt:
            console.print("\n[bold]Interrupted[/]; cleaning up")
            code = 130
        finally:
            demo.clean_up()
            if options.keep:
                console.print(f"kept: {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
    if demo.rows:
        console.print()
        console.print(demo.table())
    if code == 0:
        console.print(f"\n[bold green]Not a byte lost.[/] {time.monotonic() - began:.0f} s in all.")
    if options.picture is not None:
        # Without the fonts that it would fetch from elsewhere.
        form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        console.save_svg(str(options.picture), title="scripts/demo", code_format=form)
    return code


if __name__ == "__main__":
    sys.exit(main())
