//! The NBD session against the clients people use. A client that is not installed is skipped, unless
//! BLOCKPAIR_REQUIRE_TOOLS=1 makes that a failure.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use _engine::front::nbd::ExportInfo;
use serde_json::{json, Value};

mod memory_server;
use memory_server::Server;

const MIB: usize = 1 << 20;
const SIZE: usize = 24 * MIB;

/// Longest run of one client, in seconds: a client that waits for a reply for ever must fail the test.
const DEADLINE: &str = "60";

/// Whether all `tools` are there. Panics where they are required.
fn have(tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = tools
        .iter()
        .filter(|tool| !std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let required = std::env::var("BLOCKPAIR_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
    let remedy = "install the packages libnbd-bin, python3-libnbd and qemu-utils";
    assert!(
        !required,
        "{missing:?} not found in PATH and BLOCKPAIR_REQUIRE_TOOLS=1: {remedy}"
    );
    // Not eprintln: the test harness would keep it to itself.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {missing:?} not found in PATH; {remedy}"
    );
    false
}

fn output(tool: &str, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .arg(DEADLINE)
        .arg(tool)
        .args(arguments)
        .output()
        .expect("run timeout(1)")
}

/// Runs a client to its success; gives what it printed.
fn run(tool: &str, arguments: &[&str]) -> String {
    let output = output(tool, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}\n{text}\n{error}",
        output.status
    );
    text
}

fn run_json(tool: &str, arguments: &[&str]) -> Value {
    let text = run(tool, arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{tool} printed {text:?}: {error}"))
}

struct Scene {
    // Dropped first: ending the server needs its socket in the folder.
    server: Server,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(change: impl FnOnce(&mut ExportInfo)) -> Scene {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut info = ExportInfo::new("r0", SIZE as u64);
        change(&mut info);
        let server = Server::start(folder.path(), info);
        Scene { server, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The server's address for the export's own name.
    fn uri(&self) -> String {
        self.server.uri("r0")
    }

    fn no_violations(&self) {
        assert_eq!(self.server.disk().violations, Vec::<String>::new());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A disk image with data, holes of several sizes and a partly filled block: the same bytes on every run.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut fill = |from: usize, to: usize| {
        for byte in &mut bytes[from..to] {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
    };
    fill(0, 3 * MIB);
    fill(4 * MIB + 512, 4 * MIB + 1536);
    fill(9 * MIB, 18 * MIB + 4096);
    fill(SIZE - 512, SIZE);
    bytes
}

#[test]
fn nbdinfo_shows_the_export() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let scene = Scene::new(|info| info.description = "a disk of two nodes".into());
    for name in ["r0", ""] {
        let info = run_json("nbdinfo", &["--json", &scene.server.uri(name)]);
        assert_eq!(
            (&info["protocol"], &info["structured"]),
            (&json!("newstyle-fixed"), &json!(true))
        );
        let export = &info["exports"][0];
        for (field, value) in [
            ("export-name", json!("r0")),
            ("description", json!("a disk of two nodes")),
            ("export-size", json!(SIZE)),
            ("contexts", json!(["base:allocation"])),
            ("block_size_minimum", json!(512)),
            ("block_size_preferred", json!(4096)),
            ("block_size_maximum", json!(32 * MIB)),
            ("is_read_only", json!(false)),
            ("is_rotational", json!(false)),
            ("can_cache", json!(true)),
            ("can_df", json!(true)),
            ("can_fast_zero", json!(true)),
            ("can_flush", json!(true)),
            ("can_fua", json!(true)),
            ("can_multi_conn", json!(true)),
            ("can_trim", json!(true)),
            ("can_zero", json!(true)),
        ] {
            assert_eq!(export[field], value, "{field} of {info:#}");
        }
    }
    let list = run_json("nbdinfo", &["--list", "--json", &scene.server.uri("")]);
    assert_eq!(list["exports"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["exports"][0]["export-name"], "r0");
    let refusal = output("nbdinfo", &[&scene.server.uri("r1")]);
    assert!(!refusal.status.success());
    scene.no_violations();
}

#[test]
fn nbdinfo_shows_a_read_only_export() {
    if !have(&["nbdinfo"]) {
        return;
    }
    let scene = Scene::new(|info| (info.read_only, info.min_block) = (true, 4096));
    let export = &run_json("nbdinfo", &["--json", &scene.uri()])["exports"][0];
    for (field, value) in [("is_read_only", true), ("can_trim", false), ("can_zero", false)] {
        assert_eq!(export[field], json!(value), "{field}");
    }
    assert_eq!(export["block_size_minimum"], 4096);
    scene.no_violations();
}

#[test]
fn nbdcopy_and_the_map_agree_with_the_disk() {
    if !have(&["nbdcopy", "nbdinfo"]) {
        return;
    }
    for min_block in [1, 512, 4096] {
        let scene = Scene::new(|info| info.min_block = min_block);
        let (source, copy) = (scene.file("source"), scene.file("copy"));
        std::fs::write(&source, image()).unwrap();
        run(
            "nbdcopy",
            &[
                "--flush",
                "--connections=4",
                "--threads=4",
                text(&source),
                &scene.uri(),
            ],
        );
        {
            let disk = scene.server.disk();
            assert!(
                disk.bytes == image(),
                "what was copied to the server differs from its source"
            );
            assert!(
                disk.sessions >= 4,
                "{} sessions, 4 connections wanted",
                disk.sessions
            );
            assert!(disk.count("flush") > 0 && disk.count("write") > 0);
            assert!(
                disk.count("write zeroes") + disk.count("trim") > 0,
                "{:?}",
                disk.counts
            );
        }
        let map = run_json("nbdinfo", &["--map", "--json", &scene.uri()]);
        let (mut end, mut holes) = (0, 0);
        for extent in map.as_array().expect("a list of extents") {
            let field = |name: &str| usize::try_from(extent[name].as_u64().unwrap()).unwrap();
            assert_eq!(field("offset"), end, "extents are consecutive");
            end += field("length");
            if field("type") == 3 {
                holes += field("length");
                assert!(image()[field("offset")..end].iter().all(|byte| *byte == 0));
            }
        }
        assert_eq!(end, SIZE);
        assert!(
            holes > 4 * MIB,
            "the holes of the image are holes of the disk: {holes} bytes"
        );
        run("nbdcopy", &[&scene.uri(), text(&copy)]);
        assert!(
            std::fs::read(&copy).unwrap() == image(),
            "what was copied from the server differs"
        );
        scene.no_violations();
    }
}

#[test]
fn qemu_img_converts_both_ways() {
    if !have(&["qemu-img"]) {
        return;
    }
    for min_block in [1, 512, 4096] {
        let scene = Scene::new(|info| info.min_block = min_block);
        let uri = scene.uri();
        let info = run_json("qemu-img", &["info", "--output=json", "-f", "raw", &uri]);
        assert_eq!(info["virtual-size"], json!(SIZE));
        let (source, copy) = (scene.file("source"), scene.file("copy"));
        std::fs::write(&source, image()).unwrap();
        run(
            "qemu-img",
            &[
                "convert",
                "-n",
                "-f",
                "raw",
                "-O",
                "raw",
                "-W",
                text(&source),
                &uri,
            ],
        );
        assert!(
            scene.server.disk().bytes == image(),
            "what was converted differs from its source"
        );
        run(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", text(&source), &uri],
        );
        let map = run_json("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
        assert!(map.as_array().is_some_and(|extents| extents.len() > 4), "{map}");
        run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", "raw", &uri, text(&copy)],
        );
        assert!(
            std::fs::read(&copy).unwrap() == image(),
            "what was converted back differs"
        );
        scene.no_violations();
    }
}

#[test]
fn qemu_io_writes_zeroes_discards_and_flushes() {
    if !have(&["qemu-io"]) {
        return;
    }
    for min_block in [1, 512, 4096] {
        let scene = Scene::new(|info| info.min_block = min_block);
        let io = |command: &str| {
            run(
                "qemu-io",
                &[
                    "-f",
                    "raw",
                    "-t",
                    "writeback",
                    "-d",
                    "unmap",
                    "-c",
                    command,
                    &scene.uri(),
                ],
            )
        };
        let seen = |what: &str| scene.server.disk().count(what);
        io("write -P 0x5a 0 8M");
        io("write -P 0xc3 1M 64k");
        assert_eq!(seen("fua"), 0);
        io("write -f -P 0x77 2M 4k");
        assert_eq!(seen("fua"), 1, "FUA reached the disk");
        io("write -z 3M 64k");
        assert_eq!(seen("write zeroes, no hole"), 1);
        io("write -z -u 4M 64k");
        assert_eq!(seen("write zeroes"), 1);
        io("write -z -u -f 5M 64k");
        assert_eq!((seen("write zeroes"), seen("fua")), (2, 2));
        io("discard 6M 1M");
        assert_eq!(seen("trim"), 1);
        let flushes = seen("flush");
        io("flush");
        assert!(seen("flush") > flushes);
        for range in [
            "-P 0x5a 0 1M",
            "-P 0xc3 1M 64k",
            "-P 0x77 2M 4k",
            "-P 0 3M 64k",
            "-P 0x5a 3136k 64k",
            "-P 0 4M 64k",
            "-P 0 5M 64k",
            "-P 0 6M 1M",
            "-P 0x5a 7M 1M",
            "-P 0 8M 16M",
        ] {
            io(&format!("read {range}"));
        }
        let disk = scene.server.disk();
        assert!(disk.bytes[..MIB].iter().all(|byte| *byte == 0x5a));
        assert!(disk.bytes[6 * MIB..7 * MIB].iter().all(|byte| *byte == 0));
        drop(disk);
        scene.no_violations();
    }
}

#[test]
fn a_client_out_of_bounds_is_told_and_goes_on() {
    if !have(&["nbdsh"]) {
        return;
    }
    let python = python_with_nbd().expect("nbdsh is installed, so is libnbd's Python module");
    let scene = Scene::new(|info| (info.can_fast_zero, info.max_payload) = (false, MIB as u32));
    // libnbd checks requests itself unless told not to; simple and structured replies are both tried.
    let script = r"
import errno, nbd
size = SIZE
def refused(number, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == number, (number, str(error))
    else:
        raise AssertionError(('was not refused', call, arguments))
for structured in (True, False):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_request_structured_replies(structured)
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(URI)
    assert h.get_structured_replies_negotiated() == structured
    block = bytes(range(256)) * 16
    refused(errno.ENOSPC, h.pwrite, block, size)
    refused(errno.ENOSPC, h.pwrite, block, SIZE - 512)
    refused(errno.ENOSPC, h.pwrite, block, 2**63 - 512)
    refused(errno.EINVAL, h.pwrite, block, 100)
    refused(errno.EINVAL, h.pwrite, bytes(2 * 2**20), 0)
    refused(errno.EINVAL, h.pread, 512, size)
    refused(errno.EINVAL, h.pread, 2 * 2**20, 0)
    refused(errno.EINVAL, h.trim, 512, size)
    refused(errno.ENOSPC, h.zero, 512, size)
    refused(errno.ENOTSUP, h.zero, 512, 0, nbd.CMD_FLAG_FAST_ZERO)
    refused(errno.EINVAL, h.cache, 512, size)
    h.pwrite(b'', 0)
    h.pread(0, 0)
    h.zero(size, 0)
    h.trim(size, 0)
    h.cache(4096, 0)
    h.pwrite(block, 8192, nbd.CMD_FLAG_FUA)
    assert h.pread(4096, 8192) == block
    if structured:
        seen = []
        told = lambda context, offset, entries, error: seen.append((context, offset, list(entries)))
        h.block_status(65536, 0, told, nbd.CMD_FLAG_REQ_ONE)
        h.block_status(65536, 0, told)
        expected = [[8192, 3], [8192, 3, 4096, 0, 53248, 3]]
        assert [entries for _, _, entries in seen] == expected, seen
    h.trim(size, 0)
    h.flush()
    h.shutdown()
";
    let script = script
        .replace("URI", &format!("{:?}", scene.uri()))
        .replace("SIZE", &SIZE.to_string());
    run(python, &["-c", &script]);
    let disk = scene.server.disk();
    assert_eq!(
        (disk.count("write"), disk.count("fua"), disk.count("cache")),
        (2, 2, 2)
    );
    assert_eq!((disk.count("flush"), disk.count("block status")), (2, 2));
    drop(disk);
    scene.no_violations();
}

/// A Python that has libnbd's module: the Debian package serves the system's own.
fn python_with_nbd() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| output(python, &["-c", "import nbd"]).status.success())
}

#[test]
fn an_old_client_gets_in_by_export_name() {
    let scene = Scene::new(|_| ());
    for (flags, padding) in [(3_u32, 0), (1, 124), (0, 124)] {
        let mut client = UnixStream::connect(&scene.server.socket).expect("connect");
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let receive = |client: &mut UnixStream, count: usize| {
            let mut bytes = vec![0; count];
            client.read_exact(&mut bytes).expect("the server answers");
            bytes
        };
        assert_eq!(receive(&mut client, 18), b"NBDMAGICIHAVEOPT\0\x03");
        let choice = [&flags.to_be_bytes()[..], b"IHAVEOPT\0\0\0\x01\0\0\0\x02r0"].concat();
        client.write_all(&choice).unwrap();
        let export = receive(&mut client, 10);
        assert_eq!(export[..8], (SIZE as u64).to_be_bytes());
        assert_eq!(export[9] & 1, 1, "the flags are flags");
        assert_eq!(receive(&mut client, padding), vec![0; padding]);
        let request = |command: u8, length: u32| {
            [
                &[0x25, 0x60, 0x95, 0x13, 0, 0, 0, command, 1, 2, 3, 4, 5, 6, 7, 8][..],
                &[0; 8],
                &length.to_be_bytes(),
            ]
            .concat()
        };
        client.write_all(&request(0, 512)).unwrap();
        let reply = receive(&mut client, 16 + 512);
        assert_eq!(
            reply[..16],
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(reply[16..], [0; 512]);
        client.write_all(&request(2, 0)).unwrap();
        assert_eq!(client.read(&mut [0]).expect("the server closes"), 0);
    }
    assert_eq!(scene.server.disk().sessions, 3);
    scene.no_violations();
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let scene = Scene::new(|_| ());
    let mut garbage = UnixStream::connect(&scene.server.socket).expect("connect");
    garbage.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    garbage.write_all(&[0, 0, 0, 3]).unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut answer = Vec::new();
    // The close of a socket with unread input may show as a reset.
    let _ = garbage.read_to_end(&mut answer);
    assert_eq!(answer.len(), 18, "the greeting and nothing else");
    let violations = scene.server.disk().violations.clone();
    assert!(
        violations.len() == 1 && violations[0].contains("option's magic"),
        "{violations:?}"
    );
    let mut next = UnixStream::connect(&scene.server.socket).expect("the server still listens");
    next.read_exact(&mut [0; 18]).expect("the server still greets");
}
