use std::collections::BTreeMap;
use std::io::{self, Cursor};

use proptest::prelude::*;

use super::format::Generations;
use super::*;
use crate::wire::BlockRun;

const BLOCK: u64 = 4096;

fn generations() -> Generations {
    Generations {
        current: "00000000000000aa".into(),
        bitmap: "0000000000000000".into(),
        history: vec!["0000000000000001".into()],
    }
}

fn facts(device: u64, runs: &[BlockRun]) -> Facts {
    Facts {
        resource: "r0".into(),
        node: "beta".into(),
        peer: "alpha".into(),
        rule: "split-brain".into(),
        why: "root via blockpair resolve".into(),
        created_s: 1_700_000_000,
        victim: generations(),
        survivor: generations(),
        block_size_bytes: BLOCK as u32,
        data_size_bytes: device,
        blocks: runs.iter().map(|run| run.count).sum(),
    }
}

fn run(first: u64, count: u64) -> BlockRun {
    BlockRun { first, count }
}

/// Bytes that differ from block to block, some of them compressible.
fn disk(size: u64) -> Vec<u8> {
    let mut state = 1_u64;
    (0..size)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if (at / BLOCK).is_multiple_of(3) {
                (at / BLOCK) as u8
            } else {
                (state >> 33) as u8
            }
        })
        .collect()
}

fn save(disk: &[u8], runs: &[BlockRun]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut read = |offset: u64, into: &mut [u8]| {
        let offset = offset as usize;
        into.copy_from_slice(&disk[offset..offset + into.len()]);
        Ok(())
    };
    let facts = facts(disk.len() as u64, runs);
    let size = write(&mut out, &facts, runs, &mut read, &|| true).unwrap();
    assert_eq!(size, out.len() as u64);
    out
}

/// Every block of a bundle by its number.
fn blocks(bundle: &mut Bundle<Cursor<&[u8]>>) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    for chunk in 0..bundle.chunks() {
        let Chunk { runs, data } = bundle.read(chunk).unwrap();
        let mut rest = &data[..];
        for block in runs.iter().flat_map(|run| run.first..run.first + run.count) {
            let (bytes, after) = rest.split_at(rest.len().min(BLOCK as usize));
            found.insert(block, bytes.to_vec());
            rest = after;
        }
        assert!(rest.is_empty());
    }
    found
}

#[test]
fn what_was_saved_is_read_back() {
    // Longer than a chunk, single blocks, and a last block that is shorter than the others.
    let disk = disk(700 * BLOCK + 512);
    let runs = [run(0, 1), run(2, 600), run(650, 1), run(699, 2)];
    let file = save(&disk, &runs);
    let mut bundle = Bundle::open(Cursor::new(&file[..])).unwrap();
    assert_eq!(bundle.facts(), &facts(disk.len() as u64, &runs));
    assert_eq!(bundle.size_bytes(), file.len() as u64);
    bundle.verify(&|| true).unwrap();
    let found = blocks(&mut bundle);
    assert_eq!(found.len(), 604);
    for (block, bytes) in &found {
        let start = (block * BLOCK) as usize;
        assert_eq!(
            bytes[..],
            disk[start..(start + BLOCK as usize).min(disk.len())],
            "block {block}"
        );
    }
    assert_eq!(found[&700].len(), 512);
    for chunk in 0..bundle.chunks() {
        assert_eq!(bundle.runs(chunk).unwrap(), bundle.read(chunk).unwrap().runs);
    }
    for block in 0..701 {
        let named = bundle.chunk_with(block).map(|chunk| bundle.read(chunk).unwrap());
        let held = named.is_some_and(|chunk| {
            chunk
                .runs
                .iter()
                .any(|run| (run.first..run.first + run.count).contains(&block))
        });
        assert_eq!(held, found.contains_key(&block), "block {block}");
    }
}

#[test]
fn a_bundle_of_nothing_is_a_bundle() {
    let file = save(&disk(BLOCK), &[]);
    let mut bundle = Bundle::open(Cursor::new(&file[..])).unwrap();
    assert_eq!((bundle.chunks(), bundle.chunk_with(0)), (0, None));
    bundle.verify(&|| true).unwrap();
}

#[test]
fn the_same_disk_compresses() {
    let file = save(&vec![7; 64 * BLOCK as usize], &[run(0, 64)]);
    assert!(file.len() < 4096, "{} bytes", file.len());
}

#[test]
fn blocks_that_do_not_fit_are_refused_before_anything_is_read() {
    let mut read = |_: u64, _: &mut [u8]| -> io::Result<()> { panic!("read") };
    for runs in [
        &[run(0, 0)][..],
        &[run(3, 1), run(2, 1)],
        &[run(0, 2), run(1, 1)],
        &[run(9, 2)],
        &[run(u64::MAX, 2)],
    ] {
        let mut facts = facts(10 * BLOCK, &[]);
        facts.blocks = runs.iter().map(|run| run.count).sum();
        let refused = write(&mut Vec::new(), &facts, runs, &mut read, &|| true);
        assert!(matches!(refused, Err(BundleError::Unfit(_))), "{runs:?}");
    }
    let wrong = facts(10 * BLOCK, &[run(0, 2)]);
    let refused = write(&mut Vec::new(), &wrong, &[run(0, 1)], &mut read, &|| true);
    assert!(matches!(refused, Err(BundleError::Unfit(_))));
}

#[test]
fn a_block_that_cannot_be_read_is_named() {
    let mut read = |offset: u64, _: &mut [u8]| {
        if offset == 5 * BLOCK {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    };
    let runs = [run(1, 1), run(5, 1)];
    let refused = write(
        &mut Vec::new(),
        &facts(10 * BLOCK, &runs),
        &runs,
        &mut read,
        &|| true,
    );
    assert!(
        matches!(refused, Err(BundleError::Source { block: 5, .. })),
        "{refused:?}"
    );
}

#[test]
fn it_can_be_interrupted() {
    let runs = [run(0, 10)];
    let stopped = write(
        &mut Vec::new(),
        &facts(10 * BLOCK, &runs),
        &runs,
        &mut |_, _| Ok(()),
        &|| false,
    );
    assert!(matches!(stopped, Err(BundleError::Interrupted)));
}

#[test]
fn foreign_and_newer_files_are_told_apart() {
    let open = |bytes: &[u8]| Bundle::open(Cursor::new(bytes.to_vec())).unwrap_err();
    assert!(matches!(open(b""), BundleError::Foreign));
    assert!(matches!(open(&[0; 4096]), BundleError::Foreign));
    let mut file = save(&disk(BLOCK), &[run(0, 1)]);
    file[8] = 9;
    assert!(matches!(open(&file), BundleError::Version(9)));
}

#[test]
fn a_forged_length_allocates_nothing() {
    let mut file = save(&disk(BLOCK), &[run(0, 1)]);
    let trailer = file.len() - 48;
    file[trailer + 16..trailer + 24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(
        Bundle::open(Cursor::new(&file[..])),
        Err(BundleError::Damaged(_))
    ));
    let mut file = save(&disk(BLOCK), &[run(0, 1)]);
    file[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        Bundle::open(Cursor::new(&file[..])),
        Err(BundleError::Damaged(_))
    ));
}

#[test]
fn another_bundle_s_end_does_not_fit() {
    let disk = disk(10 * BLOCK);
    let (mut one, other) = (save(&disk, &[run(1, 1)]), save(&disk, &[run(2, 1)]));
    assert_eq!(one.len(), other.len());
    let id = |file: &[u8]| Bundle::open(Cursor::new(file)).unwrap().id();
    assert_ne!(id(&one), id(&other));
    // The same facts, so that the index fits; what it says of the chunk does not.
    let index = one.len() - 48 - 56;
    one[index..].copy_from_slice(&other[index..]);
    assert!(matches!(check_all(&one), Err(BundleError::Damaged(_))));
}

fn check_all(file: &[u8]) -> Result<(), BundleError> {
    Bundle::open(Cursor::new(file))?.verify(&|| true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_runs_survive(gaps in prop::collection::vec((0_u64..40, 1_u64..300), 0..20), tail in 0_u64..3) {
        let mut at = 0;
        let mut runs = Vec::new();
        for (gap, count) in gaps {
            runs.push(run(at + gap, count));
            at += gap + count;
        }
        let disk = disk((at + tail) * BLOCK);
        let file = save(&disk, &runs);
        let found = blocks(&mut Bundle::open(Cursor::new(&file[..])).unwrap());
        let wanted: Vec<u64> = runs.iter().flat_map(|run| run.first..run.first + run.count).collect();
        prop_assert_eq!(found.keys().copied().collect::<Vec<_>>(), wanted);
        for (block, bytes) in found {
            prop_assert_eq!(&bytes[..], &disk[(block * BLOCK) as usize..][..BLOCK as usize]);
        }
    }

    #[test]
    fn every_cut_is_noticed(part in 0.0_f64..1.0) {
        let file = save(&disk(20 * BLOCK), &[run(1, 3), run(7, 9)]);
        let cut = (file.len() as f64 * part) as usize;
        prop_assert!(check_all(&file[..cut]).is_err());
    }

    #[test]
    fn every_flipped_bit_is_noticed(part in 0.0_f64..1.0, bit in 0_u8..8) {
        let mut file = save(&disk(20 * BLOCK), &[run(1, 3), run(7, 9)]);
        let at = (file.len() as f64 * part) as usize;
        file[at] ^= 1 << bit;
        prop_assert!(check_all(&file).is_err(), "byte {}", at);
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), headed: bool) {
        let mut file = if headed { b"BPBUNDLE\x01\0\0\0".to_vec() } else { Vec::new() };
        file.extend(bytes);
        prop_assert!(check_all(&file).is_err());
    }
}

#[test]
fn a_device_too_large_for_its_offsets_is_refused_and_the_largest_is_not() {
    let last = |device: u64| vec![run(device.div_ceil(BLOCK) - 1, 1)];
    let mut zeroes = |_: u64, into: &mut [u8]| {
        into.fill(0);
        Ok(())
    };
    let mut save = |device: u64| {
        let mut out = Vec::new();
        let runs = last(device);
        write(&mut out, &facts(device, &runs), &runs, &mut zeroes, &|| true).map(|_| out)
    };
    assert!(matches!(save(u64::MAX), Err(BundleError::Unfit(_))));
    let saved = save(i64::MAX as u64).unwrap();
    let mut bundle = Bundle::open(Cursor::new(saved)).unwrap();
    assert_eq!(bundle.read(0).unwrap().data.len() as u64, i64::MAX as u64 % BLOCK);
}
