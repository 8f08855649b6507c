//! Metadata as JSON, for people and scripts.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{MetadataError, MetadataErrorKind as Kind};
use super::{CopyState, LoadedMetadata, MetadataFile, MetadataPlace, PAGE};
use crate::meta::superblock::VERSION;
use crate::meta::{Bitmap, EXTENT_BYTES};
use crate::wire::DiskState;

/// Runs listed in one dump, in all; bounds its size however fragmented a bitmap is.
const RUNS_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InspectSpec {
    device: PathBuf,
    metadata: MetadataPlace,
}

#[derive(Serialize)]
struct Report {
    version: u16,
    resource: String,
    resource_id: String,
    node: String,
    data_size_bytes: u64,
    block_size_bytes: u32,
    extent_size_bytes: u64,
    sequence: u64,
    copies: Vec<CopyReport>,
    disk: DiskState,
    role_primary: bool,
    clean: bool,
    last_primary: bool,
    forced: bool,
    generations: GenerationsReport,
    /// Seconds since 1970: when it went on alone last, and when it last noted a change; 0 unknown.
    diverged_at_s: u64,
    changed_at_s: u64,
    epoch: u64,
    promised: u64,
    peers: Vec<PeerReport>,
    intent_extents: u64,
    /// Data in those extents, in bytes.
    intent_bytes: u64,
    damaged_pages: usize,
    layout: LayoutReport,
    #[serde(flatten)]
    dump: Option<DumpReport>,
}

#[derive(Serialize)]
struct CopyReport {
    slot: usize,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct GenerationsReport {
    current: String,
    history: Vec<String>,
}

#[derive(Serialize)]
struct PeerReport {
    slot: usize,
    name: String,
    bitmap_generation: String,
    full_sync: bool,
    dirty_blocks: u64,
    dirty_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty_runs: Option<Vec<(u64, u64)>>,
}

/// Offsets and lengths in bytes, from the start of the file or device that holds the metadata.
#[derive(Serialize)]
struct LayoutReport {
    superblock: [u64; 2],
    intent: (u64, u64),
    bitmaps: Vec<(u64, u64)>,
}

#[derive(Serialize)]
struct DumpReport {
    intent_runs: Vec<(u64, u64)>,
    /// There are more runs than were listed.
    truncated: bool,
}

/// Describes metadata, read-only and without a lock: works while the resource is up, and then shows what is
/// on disk at the moment.
pub fn inspect_metadata(spec: &str) -> Result<String, MetadataError> {
    describe(spec, false)
}

/// [`inspect_metadata`] with the set runs of each bitmap, in units.
pub fn dump_metadata(spec: &str) -> Result<String, MetadataError> {
    describe(spec, true)
}

fn describe(spec: &str, dump: bool) -> Result<String, MetadataError> {
    let spec: InspectSpec = parse(spec)?;
    let file = MetadataFile::open(&spec.metadata, &spec.device, false)?;
    let loaded = file.load()?;
    Ok(to_json(&report(&loaded, file.region_start(), dump)))
}

fn report(loaded: &LoadedMetadata, start: u64, dump: bool) -> Report {
    let (superblock, layout) = (&loaded.superblock, &loaded.layout);
    let mut runs = Runs {
        left: RUNS_MAX,
        truncated: false,
    };
    let intent_runs = dump.then(|| runs.of(&loaded.intent));
    let mut peers = Vec::with_capacity(superblock.peers.len());
    for (slot, (peer, bitmap)) in superblock.peers.iter().zip(&loaded.bitmaps).enumerate() {
        let dirty_blocks = if peer.full_sync {
            layout.blocks()
        } else {
            bitmap.count()
        };
        peers.push(PeerReport {
            slot,
            name: peer.name.clone(),
            bitmap_generation: hex(peer.bitmap_generation),
            full_sync: peer.full_sync,
            dirty_blocks,
            dirty_bytes: dirty_blocks * u64::from(layout.block_size_bytes()),
            dirty_runs: dump.then(|| runs.of(bitmap)),
        });
    }
    let bitmap_bytes = layout.bitmap_pages() as u64 * PAGE;
    let bitmap_place = |slot| (start + layout.bitmap_offset(slot), bitmap_bytes);
    Report {
        version: VERSION,
        resource: superblock.resource.clone(),
        resource_id: superblock
            .resource_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        node: superblock.node.clone(),
        data_size_bytes: layout.data_size_bytes(),
        block_size_bytes: layout.block_size_bytes(),
        extent_size_bytes: EXTENT_BYTES,
        sequence: superblock.sequence,
        copies: loaded.copies.iter().enumerate().map(copy_report).collect(),
        disk: superblock.disk,
        role_primary: superblock.role_primary,
        clean: superblock.clean,
        last_primary: superblock.last_primary,
        forced: superblock.forced,
        generations: GenerationsReport {
            current: hex(superblock.current),
            history: superblock
                .history
                .iter()
                .map(|generation| hex(*generation))
                .collect(),
        },
        diverged_at_s: superblock.diverged_at_s,
        changed_at_s: superblock.changed_at_s,
        epoch: superblock.epoch,
        promised: superblock.promised,
        peers,
        intent_extents: loaded.intent.count(),
        intent_bytes: intent_bytes(&loaded.intent, layout.data_size_bytes()),
        damaged_pages: loaded.damaged_pages,
        layout: LayoutReport {
            superblock: [0, 1].map(|copy| start + layout.superblock_offset(copy)),
            intent: (
                start + layout.intent_offset(),
                layout.intent_pages() as u64 * PAGE,
            ),
            bitmaps: (0..layout.peer_slots()).map(bitmap_place).collect(),
        },
        dump: intent_runs.map(|intent_runs| DumpReport {
            intent_runs,
            truncated: runs.truncated,
        }),
    }
}

/// Hands out runs until there have been enough.
struct Runs {
    left: usize,
    truncated: bool,
}

impl Runs {
    fn of(&mut self, bitmap: &Bitmap) -> Vec<(u64, u64)> {
        let mut all = bitmap.runs();
        let listed: Vec<_> = all.by_ref().take(self.left).collect();
        self.left -= listed.len();
        self.truncated |= all.next().is_some();
        listed
    }
}

fn copy_report((slot, copy): (usize, &CopyState)) -> CopyReport {
    let (state, sequence, reason) = match copy {
        CopyState::Valid { sequence } => ("valid", Some(*sequence), None),
        CopyState::Damaged(reason) => ("damaged", None, Some(reason.clone())),
        CopyState::Newer { version } => ("newer", None, Some(format!("format version {version}"))),
        CopyState::Absent => ("absent", None, None),
    };
    CopyReport {
        slot,
        state,
        sequence,
        reason,
    }
}

/// Data in the set extents, in bytes; the last extent may be a part of one.
fn intent_bytes(intent: &Bitmap, data_size_bytes: u64) -> u64 {
    let whole = intent.count() * EXTENT_BYTES;
    let beyond = intent.len() * EXTENT_BYTES - data_size_bytes;
    let last_is_set = intent.next_set(intent.len().saturating_sub(1)).is_some();
    whole - if last_is_set { beyond } else { 0 }
}

fn hex(generation: u64) -> String {
    format!("{generation:016x}")
}

pub(super) fn parse<T: DeserializeOwned>(spec: &str) -> Result<T, MetadataError> {
    serde_json::from_str(spec).map_err(|error| {
        let message = format!("the metadata request is malformed: {error}");
        MetadataError::new(
            Kind::Invalid,
            message,
            "use the same version of blockpair and its engine",
        )
    })
}

pub(super) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("maps with text keys, numbers and texts only")
}
