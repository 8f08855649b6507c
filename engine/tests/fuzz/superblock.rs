//! A superblock's page, and the choice between two of them.

use _engine::meta::{choose, Layout, Superblock, SuperblockError, PAGE_BYTES};
use _engine::wire::DiskState;
use xxhash_rust::xxh3::xxh3_128;

use super::mutate::Rng;
use super::runner::Target;

pub const TARGET: Target = Target {
    name: "superblock",
    corpus,
    words: &[b"blkpair\0", b"r0", b"\xff\xfe", b"\n"],
    mend,
    check,
    memory: |_| 128 << 10,
    runs: 20_000,
};

fn check(input: &[u8]) -> Result<String, String> {
    let (first, second) = input.split_at(input.len().min(PAGE_BYTES));
    let decoded = [judge(first)?, judge(second)?];
    let newest = decoded.iter().flatten().map(|found| found.sequence).max();
    let newer = decoded
        .iter()
        .any(|found| matches!(found, Err(SuperblockError::Newer { .. })));
    let outcome = decoded.clone().map(|found| match found {
        Ok(found) => format!("{} peers, {:?}", found.peers.len(), found.disk),
        Err(error) => error
            .to_string()
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .take(40)
            .collect(),
    });
    let [a, b] = decoded;
    match choose(a, b) {
        Ok(_) if newer => return Err("a copy was chosen beside a newer build's".to_owned()),
        Ok((chosen, _)) if Some(chosen.sequence) == newest => {}
        Ok(_) => return Err("the older of two copies was chosen".to_owned()),
        Err(_) if newest.is_some() && !newer => return Err("a usable copy was not chosen".to_owned()),
        Err(_) => {}
    }
    Ok(outcome.join("; "))
}

fn judge(page: &[u8]) -> Result<Result<Superblock, SuperblockError>, String> {
    let decoded = Superblock::decode(page);
    match &decoded {
        Ok(found) => {
            if found.encode()[..] != *page {
                return Err(format!("{found:?} does not encode to the page it came from"));
            }
            // What opens it multiplies and subtracts these.
            let layout = found.layout();
            if layout.region_bytes() < layout.superblock_offset(1) + PAGE_BYTES as u64 {
                return Err(format!("a layout that does not hold its superblocks: {layout:?}"));
            }
        }
        Err(error) => {
            let text = error.to_string();
            if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
                return Err(format!("an error unfit for a log line: {text:?}"));
            }
        }
    }
    Ok(decoded)
}

fn mend(mut input: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    input.resize(
        if input.len() > PAGE_BYTES {
            2 * PAGE_BYTES
        } else {
            PAGE_BYTES
        },
        0,
    );
    for page in input.chunks_exact_mut(PAGE_BYTES) {
        if !rng.one_in(16) {
            page[..8].copy_from_slice(b"blkpair\0");
        }
        page[16..32].fill(0);
        let check = xxh3_128(page);
        page[16..32].copy_from_slice(&check.to_le_bytes());
    }
    input
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let layout = Layout::new(1 << 30, 4096, 2);
    let peers = ["beta".to_owned(), String::new()];
    let blank = Superblock::blank("r0", "alpha", &peers, &layout, 4);
    let mut used = Superblock {
        sequence: 5,
        resource_id: [5; 16],
        current: 9,
        disk: DiskState::UpToDate,
        role_primary: true,
        clean: false,
        epoch: 2,
        promised: 3,
        changed_at_s: 1_700_000_000,
        ..blank.clone()
    };
    used.peers[0].bitmap_generation = 8;
    used.peers[0].full_sync = false;
    let both = [blank.encode().to_vec(), used.encode().to_vec()].concat();
    vec![
        ("blank".to_owned(), blank.encode().to_vec()),
        ("used".to_owned(), used.encode().to_vec()),
        ("both".to_owned(), both),
    ]
}
