use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

use super::*;
use crate::meta::next_copy;
use crate::meta::page::UNITS_PER_PAGE;
use crate::payload::Payload;

const MIB: u64 = 1 << 20;

/// A folder with a backing file, and a specification that fits.
struct Setup {
    folder: TempDir,
    spec: CreateSpec,
}

impl Setup {
    fn external(size: u64) -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("disk");
        File::create(&device).unwrap().set_len(size).unwrap();
        let spec = CreateSpec {
            resource: "r0".to_owned(),
            node: "a".to_owned(),
            device,
            metadata: MetadataPlace::External(folder.path().join("meta")),
            block_size_bytes: 4096,
            peers: vec!["b".to_owned()],
            overwrite: false,
            check_only: false,
        };
        Setup { folder, spec }
    }

    fn internal(size: u64) -> Setup {
        let mut setup = Setup::external(size);
        setup.spec.metadata = MetadataPlace::Internal;
        setup
    }

    /// The file that holds the metadata.
    fn holder(&self) -> PathBuf {
        match &self.spec.metadata {
            MetadataPlace::External(path) => path.clone(),
            MetadataPlace::Internal => self.spec.device.clone(),
        }
    }

    fn open(&self, lock: bool) -> Result<MetadataFile, MetadataError> {
        MetadataFile::open(&self.spec.metadata, &self.spec.device, lock)
    }

    fn refused(&self, kind: MetadataErrorKind) -> MetadataError {
        let error = create(&self.spec).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(!error.remedy.is_empty());
        error
    }

    fn open_refused(&self, kind: MetadataErrorKind) -> MetadataError {
        let error = self.open(true).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(!error.remedy.is_empty());
        error
    }

    fn json_spec(&self) -> String {
        let metadata = match &self.spec.metadata {
            MetadataPlace::External(path) => serde_json::json!({"kind": "external", "path": path}),
            MetadataPlace::Internal => serde_json::json!({"kind": "internal"}),
        };
        serde_json::json!({"device": self.spec.device, "metadata": metadata}).to_string()
    }

    /// Overwrites bytes of the holder, `from_end` before its end.
    fn poke(&self, from_end: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.holder()).unwrap();
        let size = file.metadata().unwrap().len();
        file.write_all_at(bytes, size - from_end).unwrap();
    }
}

/// Brings a bitmap to disk the way the core does.
fn flush(file: &MetadataFile, bitmap: &mut Bitmap, offset: u64) {
    let write = |(index, bytes): (usize, Payload)| MetaWrite {
        offset: offset + index as u64 * PAGE,
        bytes,
    };
    let writes: Vec<_> = bitmap.take_changed(usize::MAX).into_iter().map(write).collect();
    file.commit(&writes).unwrap();
}

fn write_superblock(file: &MetadataFile, superblock: &Superblock) {
    let offset = file.layout().superblock_offset(next_copy(superblock.sequence));
    let bytes = superblock.encode();
    file.commit(&[MetaWrite { offset, bytes }]).unwrap();
}

#[test]
fn fresh_external_metadata_says_that_nothing_is_in_sync() {
    let setup = Setup::external(64 * MIB);
    let created = create(&setup.spec).unwrap();
    assert_eq!(created.data_size_bytes, 64 * MIB);
    assert_eq!(created.device_size_bytes, 64 * MIB);
    let info = fs::metadata(setup.holder()).unwrap();
    assert_eq!(info.len(), created.metadata_bytes);
    assert_eq!(info.permissions().mode() & 0o777, 0o600);

    let loaded = setup.open(true).unwrap().load().unwrap();
    assert_eq!(
        loaded.copies.map(|copy| matches!(copy, CopyState::Valid { .. })),
        [true, true]
    );
    assert_eq!(loaded.damaged_pages, 0);
    assert_eq!(loaded.superblock.resource, "r0");
    assert_eq!(loaded.superblock.disk, crate::wire::DiskState::Inconsistent);
    assert_eq!(loaded.superblock.current, 0);
    assert!(loaded.superblock.peers[0].full_sync);
    assert_eq!(loaded.bitmaps.len(), 1);
    assert!(loaded.bitmaps[0].is_empty() && loaded.intent.is_empty());
    assert_eq!(loaded.bitmaps[0].len(), 64 * MIB / 4096);
    assert_eq!(loaded.intent.len(), 16);
}

#[test]
fn internal_metadata_lies_behind_the_data() {
    // Not even a multiple of a page: the odd bytes at the end stay unused.
    let setup = Setup::internal(8 * MIB + 1234);
    let before = vec![0xa5; 8 << 20];
    fs::write(&setup.spec.device, &before).unwrap();
    File::options()
        .write(true)
        .open(&setup.spec.device)
        .unwrap()
        .set_len(8 * MIB + 1234)
        .unwrap();
    let created = create(&setup.spec).unwrap();
    assert_eq!(created.data_size_bytes, 8 * MIB - 4 * 4096);
    let after = fs::read(&setup.spec.device).unwrap();
    assert_eq!(after.len() as u64, 8 * MIB + 1234);
    assert!(
        after[..created.data_size_bytes as usize]
            .iter()
            .all(|byte| *byte == 0xa5),
        "data was touched"
    );

    let file = setup.open(true).unwrap();
    assert!(file.region_start() >= created.data_size_bytes);
    let loaded = file.load().unwrap();
    assert_eq!(loaded.damaged_pages, 0, "what was there before is no bitmap");
    assert!(loaded.bitmaps[0].is_empty());
}

#[test]
fn what_was_committed_is_loaded_again() {
    for mut setup in [Setup::external(1 << 30), Setup::internal(1 << 30)] {
        setup.spec.peers = vec!["b".to_owned(), "c".to_owned()];
        create(&setup.spec).unwrap();
        let file = setup.open(true).unwrap();
        let mut loaded = file.load().unwrap();
        let layout = loaded.layout;
        loaded.bitmaps[0].set(5, 70_000);
        loaded.bitmaps[1].set(2 * UNITS_PER_PAGE + 9, 1);
        loaded.bitmaps[1].set(layout.blocks() - 1, 1);
        loaded.intent.set(7, 3);
        for (slot, bitmap) in loaded.bitmaps.iter_mut().enumerate() {
            flush(&file, bitmap, layout.bitmap_offset(slot));
        }
        flush(&file, &mut loaded.intent, layout.intent_offset());
        loaded.superblock.sequence += 1;
        loaded.superblock.current = 42;
        write_superblock(&file, &loaded.superblock);
        drop(file);

        let again = setup.open(false).unwrap().load().unwrap();
        assert_eq!(again.superblock, loaded.superblock);
        assert_eq!(again.damaged_pages, 0);
        for (bitmap, expected) in again.bitmaps.iter().zip(&loaded.bitmaps) {
            assert!(bitmap.runs().eq(expected.runs()));
        }
        assert_eq!(again.intent.runs().collect::<Vec<_>>(), [(7, 3)]);
    }
}

#[test]
fn a_damaged_page_is_counted_and_all_set() {
    let setup = Setup::external(1 << 30);
    create(&setup.spec).unwrap();
    let file = setup.open(true).unwrap();
    file.write(file.layout().bitmap_offset(0) + 2 * PAGE, &[1; PAGE_BYTES])
        .unwrap();
    file.sync().unwrap();
    let loaded = file.load().unwrap();
    assert_eq!(loaded.damaged_pages, 1);
    assert_eq!(
        loaded.bitmaps[0].runs().collect::<Vec<_>>(),
        [(2 * UNITS_PER_PAGE, UNITS_PER_PAGE)]
    );
}

#[test]
fn a_page_that_cannot_be_read_costs_that_page_alone() {
    let setup = Setup::external(1 << 30);
    create(&setup.spec).unwrap();
    let file = setup.open(true).unwrap();
    let mut bitmap = Bitmap::new(file.layout().blocks());
    for page in 0..4 {
        bitmap.set(page * UNITS_PER_PAGE + 1, 1);
    }
    flush(&file, &mut bitmap, 0);
    // The read of the whole chunk fails, and so does that of page 2, of which only a part is left.
    File::options()
        .write(true)
        .open(setup.holder())
        .unwrap()
        .set_len(2 * PAGE + 100)
        .unwrap();
    let loaded = file.load().unwrap();
    assert_eq!(loaded.damaged_pages, 1);
    let runs: Vec<_> = loaded.bitmaps[0].runs().collect();
    assert_eq!(
        runs,
        [
            (1, 1),
            (UNITS_PER_PAGE + 1, 1),
            (2 * UNITS_PER_PAGE, UNITS_PER_PAGE)
        ]
    );
}

#[test]
fn either_copy_may_be_lost_but_not_both() {
    for lost in [0, 1] {
        let setup = Setup::external(MIB);
        create(&setup.spec).unwrap();
        let sequence = setup.open(false).unwrap().superblock().sequence;
        // Half of the copy is new, half is old: power went during the write.
        setup.poke((2 - lost) * PAGE + 512 - 1024, &[0xee; 512]);
        let file = setup.open(true).unwrap();
        let survivor = file.superblock().sequence;
        assert_eq!(
            survivor,
            if next_copy(sequence) == lost as usize {
                sequence - 1
            } else {
                sequence
            }
        );
        assert!(matches!(
            file.load().unwrap().copies[lost as usize],
            CopyState::Damaged(_)
        ));
    }
    let setup = Setup::external(MIB);
    create(&setup.spec).unwrap();
    setup.poke(2 * PAGE - 600, &[0xee; 5]);
    setup.poke(PAGE - 600, &[0xee; 5]);
    let error = setup.open_refused(Kind::Damaged);
    assert!(error.message.contains("checksum"), "{error}");
}

#[test]
fn truncated_metadata_is_missing_and_nothing_is_changed() {
    let setup = Setup::external(64 * MIB);
    create(&setup.spec).unwrap();
    let file = File::options().write(true).open(setup.holder()).unwrap();
    for size in [3 * PAGE, PAGE + 1, 100, 0] {
        file.set_len(size).unwrap();
        setup.open_refused(match size {
            // The first copy is whole, but the region before it is not where it should be.
            size if size == 3 * PAGE => Kind::Mismatch,
            _ => Kind::NoMetadata,
        });
        assert_eq!(file.metadata().unwrap().len(), size);
    }
}

#[test]
fn metadata_of_a_newer_version_is_refused_even_if_one_copy_is_ours() {
    let setup = Setup::external(MIB);
    create(&setup.spec).unwrap();
    let mut page = setup.open(false).unwrap().superblock().encode().to_vec();
    page[8..10].copy_from_slice(&7u16.to_le_bytes());
    page[16..32].fill(0);
    let check = xxh3_128(&page);
    page[16..32].copy_from_slice(&check.to_le_bytes());
    setup.poke(PAGE, &page);
    let error = setup.open_refused(Kind::Newer);
    assert!(error.message.contains("version 7"), "{error}");
    setup.refused(Kind::Unsafe);
}

#[test]
fn a_second_lock_is_refused_and_names_the_holder() {
    for setup in [Setup::external(MIB), Setup::internal(MIB)] {
        create(&setup.spec).unwrap();
        let first = setup.open(true).unwrap();
        let error = setup.open_refused(Kind::InUse);
        let me = format!("process {} (", std::process::id());
        assert!(error.message.contains(&me), "{error}");
        setup.refused(Kind::InUse);
        setup.open(false).expect("a look needs no lock");
        drop(first);
        setup.open(true).expect("free again");
    }
}

#[test]
fn the_metadata_file_alone_is_locked_too() {
    let setup = Setup::external(MIB);
    create(&setup.spec).unwrap();
    let mut other = Setup::external(MIB);
    other.spec.metadata = setup.spec.metadata.clone();
    let _first = setup.open(true).unwrap();
    let error = other.open_refused(Kind::InUse);
    assert!(error.message.starts_with("metadata "), "{error}");
}

#[test]
fn bad_input_is_refused_and_changes_nothing() {
    type Spoil = fn(&mut Setup);
    let cases: &[(&str, Spoil, &str)] = &[
        (
            "missing device",
            |s| s.spec.device = s.folder.path().join("none"),
            "does not exist",
        ),
        (
            "folder as device",
            |s| s.spec.device = s.folder.path().to_owned(),
            "neither",
        ),
        (
            "character device",
            |s| s.spec.device = "/dev/null".into(),
            "neither",
        ),
        (
            "odd size",
            |s| {
                File::options()
                    .write(true)
                    .open(&s.spec.device)
                    .unwrap()
                    .set_len(MIB + 1)
                    .unwrap()
            },
            "multiple",
        ),
        ("too small", |s| s.spec.block_size_bytes = 1 << 20, "multiple"),
        (
            "empty",
            |s| File::create(&s.spec.device).map(drop).unwrap(),
            "too small",
        ),
        ("block size", |s| s.spec.block_size_bytes = 5000, "power of two"),
        (
            "no parent",
            |s| s.spec.metadata = MetadataPlace::External(s.folder.path().join("x/meta")),
            "folder",
        ),
        (
            "itself",
            |s| s.spec.metadata = MetadataPlace::External(s.spec.device.clone()),
            "itself",
        ),
        ("no peers", |s| s.spec.peers.clear(), "0 peers"),
        ("itself as peer", |s| s.spec.peers = vec!["a".to_owned()], "twice"),
        ("long name", |s| s.spec.resource = "x".repeat(65), "65 bytes"),
    ];
    for (what, spoil, text) in cases {
        let mut setup = Setup::external(MIB + 4096);
        spoil(&mut setup);
        let error = setup.refused(Kind::Invalid);
        assert!(error.to_string().contains(text), "{what}: {error}");
        assert!(!setup.folder.path().join("meta").exists(), "{what}");
    }
    let mut setup = Setup::internal(3 * PAGE);
    let error = setup.refused(Kind::Invalid);
    assert!(error.message.contains("too small"));
    assert!(!error.remedy.contains("smaller block"), "there is none: {error}");
    setup.spec.block_size_bytes = 65536;
    assert!(setup.refused(Kind::Invalid).remedy.contains("smaller block"));
    let error = create_metadata(r#"{"resource": "r0", "surprise": 1}"#).unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
}

#[test]
fn what_exists_is_replaced_only_on_demand() {
    for mut setup in [Setup::external(64 * MIB), Setup::internal(64 * MIB)] {
        create(&setup.spec).unwrap();
        let file = setup.open(true).unwrap();
        let mut loaded = file.load().unwrap();
        loaded.bitmaps[0].set(0, 10);
        flush(&file, &mut loaded.bitmaps[0], loaded.layout.bitmap_offset(0));
        loaded.superblock.sequence += 100;
        write_superblock(&file, &loaded.superblock);
        drop(file);

        setup.spec.resource = "other".to_owned();
        let error = setup.refused(Kind::Unsafe);
        assert!(error.message.contains("resource r0 on node a"), "{error}");
        assert_eq!(setup.open(false).unwrap().superblock(), &loaded.superblock);

        setup.spec.overwrite = true;
        create(&setup.spec).unwrap();
        let fresh = setup.open(true).unwrap().load().unwrap();
        assert_eq!(
            fresh.superblock.resource, "other",
            "the old copy with its higher sequence is gone"
        );
        assert!(fresh.bitmaps[0].is_empty(), "and so are its bits");
    }
    let setup = Setup::external(MIB);
    fs::write(setup.holder(), "somebody's letter").unwrap();
    setup.refused(Kind::Unsafe);
    assert_eq!(fs::read(setup.holder()).unwrap(), b"somebody's letter");
}

#[test]
fn a_check_makes_nothing_and_finds_what_a_creation_would() {
    for mut setup in [Setup::external(64 * MIB), Setup::internal(64 * MIB)] {
        setup.spec.check_only = true;
        let checked = create(&setup.spec).unwrap();
        assert!(setup.open(false).is_err(), "there is no metadata");
        setup.spec.check_only = false;
        assert_eq!(create(&setup.spec).unwrap(), checked);

        setup.spec.check_only = true;
        setup.refused(Kind::Unsafe);
        setup.spec.overwrite = true;
        create(&setup.spec).unwrap();
        assert_eq!(setup.open(false).unwrap().superblock().resource, "r0");
    }
    let mut setup = Setup::internal(4096);
    setup.spec.check_only = true;
    assert!(setup.refused(Kind::Invalid).message.contains("too small"));
    let mut setup = Setup::external(MIB);
    setup.spec.metadata = MetadataPlace::External(setup.folder.path().join("no/meta"));
    setup.spec.check_only = true;
    setup.refused(Kind::Invalid);
}

#[test]
fn only_metadata_that_never_had_data_is_erased() {
    for setup in [Setup::external(64 * MIB), Setup::internal(64 * MIB)] {
        let spec = |resource: &str, node: &str| {
            let mut value: serde_json::Value = serde_json::from_str(&setup.json_spec()).unwrap();
            value["resource"] = resource.into();
            value["node"] = node.into();
            value.to_string()
        };
        create(&setup.spec).unwrap();
        for (resource, node) in [("r1", "a"), ("r0", "b")] {
            let error = erase_metadata(&spec(resource, node)).unwrap_err();
            assert_eq!(error.kind, Kind::Unsafe, "{error}");
        }
        erase_metadata(&spec("r0", "a")).unwrap();
        assert!(setup.open(false).is_err());
        erase_metadata(&spec("r0", "a")).unwrap();
        if setup.spec.metadata == MetadataPlace::Internal {
            create(&setup.spec).unwrap();
        } else {
            fs::remove_file(setup.holder()).unwrap();
            create(&setup.spec).unwrap();
        }

        let file = setup.open(true).unwrap();
        let mut superblock = file.superblock().clone();
        superblock.current = 7;
        superblock.sequence += 1;
        write_superblock(&file, &superblock);
        drop(file);
        let error = erase_metadata(&spec("r0", "a")).unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe, "{error}");
        assert_eq!(setup.open(false).unwrap().superblock(), &superblock);
    }
}

#[test]
fn metadata_that_does_not_fit_is_a_mismatch() {
    let setup = Setup::external(2 * MIB);
    create(&setup.spec).unwrap();
    let device = File::options().write(true).open(&setup.spec.device).unwrap();
    device.set_len(3 * MIB).unwrap();
    let file = setup.open(true).expect("a larger device is fine");
    assert_eq!(file.layout().data_size_bytes(), 2 * MIB);
    file.require("r0", "a").unwrap();
    assert_eq!(file.require("r1", "a").unwrap_err().kind, Kind::Mismatch);
    assert_eq!(file.require("r0", "b").unwrap_err().kind, Kind::Mismatch);
    drop(file);
    device.set_len(2 * MIB - 4096).unwrap();
    setup.open_refused(Kind::Mismatch);
    fs::remove_file(setup.holder()).unwrap();
    setup.open_refused(Kind::NoMetadata);
}

#[test]
#[should_panic(expected = "outside the metadata region")]
fn a_write_beside_the_region_panics() {
    let setup = Setup::internal(MIB);
    create(&setup.spec).unwrap();
    let file = setup.open(true).unwrap();
    let _ = file.write(file.layout().region_bytes() - 1, &[0; 2]);
}

#[test]
fn a_commit_of_many_pages_arrives_whole() {
    let setup = Setup::external(1 << 40);
    create(&setup.spec).unwrap();
    let file = setup.open(true).unwrap();
    let mut bitmap = Bitmap::new(file.layout().blocks());
    // More pages than one vectored write takes, and with gaps between some of them.
    for page in (0..3000).filter(|page| page % 1700 != 0) {
        bitmap.set(page * UNITS_PER_PAGE + page, 1 + page % 50);
    }
    flush(&file, &mut bitmap, 0);
    let loaded = file.load().unwrap();
    assert!(loaded.bitmaps[0].runs().eq(bitmap.runs()));
    assert_eq!(loaded.damaged_pages, 0);
}

#[test]
fn a_terabyte_is_quick_and_sparse() {
    let setup = Setup::external(1 << 40);
    let started = Instant::now();
    create(&setup.spec).unwrap();
    let file = setup.open(true).unwrap();
    let loaded = file.load().unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "took {:?}",
        started.elapsed()
    );
    assert_eq!(loaded.bitmaps[0].len(), 1 << 28);
    let info = fs::metadata(setup.holder()).unwrap();
    assert!(
        info.len() > 32 * MIB && info.blocks() * 512 < MIB,
        "{} blocks",
        info.blocks()
    );
}

#[test]
fn reports_say_what_is_there() {
    let setup = Setup::external(10 * MIB);
    create(&setup.spec).unwrap();
    let file = setup.open(true).unwrap();
    let mut loaded = file.load().unwrap();
    for block in 0..400 {
        loaded.bitmaps[0].set(block * 3, 1);
    }
    loaded.intent.set(2, 1);
    flush(&file, &mut loaded.bitmaps[0], loaded.layout.bitmap_offset(0));
    flush(&file, &mut loaded.intent, loaded.layout.intent_offset());
    loaded.superblock.sequence += 1;
    loaded.superblock.current = 0xabc;
    loaded.superblock.peers[0].full_sync = false;
    write_superblock(&file, &loaded.superblock);

    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let report = json(inspect_metadata(&setup.json_spec()).unwrap());
    assert_eq!(report["version"], 1);
    assert_eq!(report["generations"]["current"], "0000000000000abc");
    assert_eq!(report["generations"]["history"][7], "0000000000000000");
    assert_eq!(report["resource_id"], "0".repeat(32));
    assert_eq!(report["disk"], "Inconsistent");
    assert_eq!(report["copies"][1]["state"], "valid");
    assert_eq!(report["copies"][1]["sequence"], 3);
    assert_eq!(report["peers"][0]["dirty_blocks"], 400);
    assert_eq!(report["peers"][0]["dirty_bytes"], 400 * 4096);
    assert_eq!(report["intent_extents"], 1);
    assert_eq!(
        report["intent_bytes"],
        2 * MIB,
        "the third extent of 10 MiB is half an extent"
    );
    assert_eq!(report["layout"]["bitmaps"][0][0], 0);
    assert_eq!(
        report["layout"]["superblock"][1],
        loaded.layout.region_bytes() - PAGE
    );
    assert!(report.get("intent_runs").is_none() && report["peers"][0].get("dirty_runs").is_none());

    let dump = json(dump_metadata(&setup.json_spec()).unwrap());
    assert_eq!(dump["intent_runs"], serde_json::json!([[2, 1]]));
    assert_eq!(dump["peers"][0]["dirty_runs"][399], serde_json::json!([1197, 1]));
    assert_eq!(dump["truncated"], false);
}

#[test]
fn a_dump_is_bounded() {
    let setup = Setup::external(1 << 30);
    create(&setup.spec).unwrap();
    let file = setup.open(true).unwrap();
    let mut bitmap = Bitmap::new(file.layout().blocks());
    for block in 0..20_000 {
        bitmap.set(block * 2, 1);
    }
    flush(&file, &mut bitmap, 0);
    let dump: serde_json::Value = serde_json::from_str(&dump_metadata(&setup.json_spec()).unwrap()).unwrap();
    assert_eq!(dump["peers"][0]["dirty_runs"].as_array().unwrap().len(), 10_000);
    assert_eq!(dump["truncated"], true);
    assert_eq!(dump["peers"][0]["full_sync"], true);
    assert_eq!(dump["peers"][0]["dirty_blocks"], 1 << 18);
}
