use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::layout::{block_size_is_valid, Layout};
use super::{choose, next_copy, PeerRecord, Superblock, SuperblockError, PAGE_BYTES, PEER_SLOTS_MAX};
use crate::wire::{DiskState, HISTORY_LEN, NAME_MAX};

const SECTOR: usize = 512;

fn sample(sequence: u64) -> Superblock {
    Superblock {
        sequence,
        resource: "r0".to_owned(),
        node: "alpha".to_owned(),
        resource_id: [9; 16],
        data_size_bytes: 1 << 30,
        block_size_bytes: 4096,
        peer_slots: 1,
        current: 0x1234,
        history: [0; HISTORY_LEN],
        disk: DiskState::UpToDate,
        role_primary: true,
        clean: false,
        last_primary: true,
        forced: false,
        epoch: 3,
        promised: 4,
        diverged_at_s: 1_800_000_000,
        changed_at_s: 1_800_000_060,
        peers: vec![PeerRecord {
            name: "beta".to_owned(),
            bitmap_generation: 77,
            full_sync: false,
            split_brain: false,
        }],
    }
}

fn valid_name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z][a-z0-9._-]{0,63}", "[a-zß-ÿ]{1,32}"].prop_filter("fits", |name| name.len() <= NAME_MAX)
}

prop_compose! {
    fn peer()(
        name in prop_oneof![9 => valid_name(), 1 => Just(String::new())],
        bitmap_generation in any::<u64>(),
        full_sync in any::<bool>(),
        split_brain in any::<bool>(),
    ) -> PeerRecord {
        PeerRecord { name, bitmap_generation, full_sync, split_brain }
    }
}

prop_compose! {
    fn superblock()(
        (sequence, epoch, ahead) in (any::<u64>(), any::<u32>(), any::<u32>()),
        (diverged_at_s, changed_at_s) in any::<(u64, u64)>(),
        (resource, node) in (valid_name(), valid_name()),
        resource_id in any::<[u8; 16]>(),
        (shift, blocks) in (12..=20u32, 1..1u64 << 28),
        (current, history) in (any::<u64>(), any::<[u64; HISTORY_LEN]>()),
        disk in prop_oneof![
            Just(DiskState::Inconsistent), Just(DiskState::Outdated),
            Just(DiskState::Consistent), Just(DiskState::UpToDate),
        ],
        [role_primary, clean, last_primary, forced] in any::<[bool; 4]>(),
        peers in prop::collection::vec(peer(), 0..=PEER_SLOTS_MAX),
        spare in 0..=PEER_SLOTS_MAX,
    ) -> Superblock {
        Superblock {
            sequence, resource, node, resource_id,
            data_size_bytes: blocks << shift,
            block_size_bytes: 1 << shift,
            peer_slots: (peers.len() + spare).min(PEER_SLOTS_MAX) as u32,
            current, history, disk, role_primary, clean, last_primary, forced,
            epoch: u64::from(epoch),
            promised: u64::from(epoch) + u64::from(ahead),
            diverged_at_s, changed_at_s,
            peers,
        }
    }
}

/// A page with some bytes replaced and a right checksum: as another build would have written it.
fn rewritten(superblock: &Superblock, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut page = superblock.encode().to_vec();
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
    page[16..32].fill(0);
    let check = xxh3_128(&page);
    page[16..32].copy_from_slice(&check.to_le_bytes());
    page
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_the_same(superblock in superblock()) {
        let page = superblock.encode();
        prop_assert_eq!(page.len(), PAGE_BYTES);
        prop_assert_eq!(Superblock::decode(&page), Ok(superblock));
    }

    #[test]
    fn any_changed_byte_is_detected(
        superblock in superblock(),
        position in 0..PAGE_BYTES,
        flip in 1..=255u8,
    ) {
        let mut page = superblock.encode().to_vec();
        page[position] ^= flip;
        let error = Superblock::decode(&page).unwrap_err();
        // Never "newer": a decayed byte must not disable the other copy.
        prop_assert!(matches!(error, SuperblockError::Damaged(_) | SuperblockError::Absent));
    }

    #[test]
    fn garbage_with_a_right_checksum_never_panics(
        superblock in superblock(),
        offset in 32..PAGE_BYTES - 16,
        bytes in prop::collection::vec(any::<u8>(), 1..16),
    ) {
        let page = rewritten(&superblock, offset, &bytes);
        if let Ok(decoded) = Superblock::decode(&page) {
            prop_assert!(block_size_is_valid(decoded.block_size_bytes));
            prop_assert!(decoded.layout().region_bytes() > 0);
            prop_assert_eq!(&decoded.encode()[..], &page[..], "nothing is lost by writing it again");
        }
    }

    /// Power fails while copy `next_copy(n)` is written: some of its sectors are new, the rest are old.
    #[test]
    fn a_torn_write_leaves_a_valid_choice(
        before in superblock(),
        sectors in 0..=PAGE_BYTES / SECTOR,
        from_the_end in any::<bool>(),
    ) {
        let mut old = before.clone();
        old.sequence = before.sequence % (1 << 60);
        let mut current = old.clone();
        current.sequence += 1;
        current.clean = !old.clean;
        let mut new = current.clone();
        new.sequence += 1;
        new.current ^= 1;
        prop_assert_eq!(next_copy(old.sequence), next_copy(new.sequence));
        prop_assert_ne!(next_copy(current.sequence), next_copy(new.sequence));

        let mut torn = old.encode().to_vec();
        let bytes = sectors * SECTOR;
        let written = if from_the_end { PAGE_BYTES - bytes..PAGE_BYTES } else { 0..bytes };
        torn[written.clone()].copy_from_slice(&new.encode()[written]);

        let mut copies = [torn.clone(), torn];
        copies[next_copy(current.sequence)] = current.encode().to_vec();
        let [a, b] = copies.map(|page| Superblock::decode(&page));
        let (chosen, copy) = choose(a, b).unwrap();
        // All sectors that differ may have arrived: then the write did happen.
        prop_assert!(chosen == current || chosen == new);
        prop_assert_eq!(copy, next_copy(chosen.sequence));
        if sectors == 0 {
            prop_assert_eq!(chosen, current);
        } else if sectors == PAGE_BYTES / SECTOR {
            prop_assert_eq!(chosen, new);
        }
    }
}

#[test]
fn an_empty_or_foreign_page_has_no_superblock() {
    assert_eq!(Superblock::decode(&[0; PAGE_BYTES]), Err(SuperblockError::Absent));
    assert_eq!(
        Superblock::decode(&[0x5a; PAGE_BYTES]),
        Err(SuperblockError::Absent)
    );
    assert!(matches!(
        Superblock::decode(&[0; 100]),
        Err(SuperblockError::Damaged(_))
    ));
}

#[test]
fn what_a_newer_build_wrote_is_refused_not_misread() {
    let superblock = sample(4);
    for (what, offset, bytes) in [
        ("version", 8, &2u16.to_le_bytes()[..]),
        ("flag", 81, &[1]),
        ("reserved", 400, &[1]),
        ("reserved at the end", PAGE_BYTES - 1, &[1]),
        ("peer flag", 513, &[4]),
        ("reserved of a peer", 512 + 100, &[1]),
        ("peer record beyond the last", 512 + 256, &[1]),
    ] {
        let error = Superblock::decode(&rewritten(&superblock, offset, bytes)).unwrap_err();
        assert!(matches!(error, SuperblockError::Newer { .. }), "{what}: {error}");
    }
}

#[test]
fn impossible_values_are_damage_even_with_a_right_checksum() {
    let superblock = sample(4);
    for (what, offset, bytes) in [
        ("version 0", 8, &[0, 0][..]),
        ("size 0", 56, &[0; 8]),
        ("size of all ones", 56, &[0xff; 8]),
        ("block size 0", 64, &[0; 4]),
        ("block size 5000", 64, &5000u32.to_le_bytes()),
        ("extent size", 68, &[0; 4]),
        ("slots", 72, &[200, 0, 0, 0]),
        ("disk 0", 76, &[0]),
        ("disk 5", 76, &[5]),
        ("peers", 77, &[8]),
        ("more peers than slots", 77, &[2]),
        ("no resource name", 78, &[0]),
        ("long node name", 79, &[65]),
        ("promised below epoch", 48, &[0; 8]),
        ("not UTF-8", 192, &[0xff]),
    ] {
        let error = Superblock::decode(&rewritten(&superblock, offset, bytes)).unwrap_err();
        assert!(matches!(error, SuperblockError::Damaged(_)), "{what}: {error}");
    }
}

#[test]
fn the_choice_between_two_copies() {
    fn damaged<T>() -> Result<T, SuperblockError> {
        Err(SuperblockError::Damaged("x".to_owned()))
    }
    fn absent<T>() -> Result<T, SuperblockError> {
        Err(SuperblockError::Absent)
    }
    fn newer<T>(version: u16) -> Result<T, SuperblockError> {
        Err(SuperblockError::Newer { version })
    }
    assert_eq!(choose(Ok(sample(4)), Ok(sample(3))), Ok((sample(4), 0)));
    assert_eq!(choose(Ok(sample(4)), Ok(sample(5))), Ok((sample(5), 1)));
    assert_eq!(choose(damaged(), Ok(sample(5))), Ok((sample(5), 1)));
    assert_eq!(choose(Ok(sample(4)), absent()), Ok((sample(4), 0)));
    assert_eq!(choose(absent(), absent()), absent());
    assert_eq!(choose(absent(), damaged()), damaged());
    assert_eq!(choose(damaged(), absent()), damaged());
    assert_eq!(choose(newer(2), Ok(sample(5))), newer(2));
    assert_eq!(choose(Ok(sample(4)), newer(3)), newer(3));
    assert_eq!(choose(newer(2), newer(3)), newer(3));
}

#[test]
#[should_panic(expected = "disk state Diskless")]
fn a_state_of_the_moment_is_never_written() {
    let mut superblock = sample(1);
    superblock.disk = DiskState::Diskless;
    superblock.encode();
}

/// Where the module's text has a field: its first byte, and how many.
fn told(field: &str) -> std::ops::Range<usize> {
    let line = include_str!("superblock.rs")
        .lines()
        .find(|line| line.starts_with("//! |") && line.split('|').nth(3).map(str::trim) == Some(field))
        .expect(field);
    let number = |cell: &str| -> usize {
        cell.split('×')
            .map(|factor| factor.trim().parse::<usize>().unwrap())
            .product()
    };
    let mut cells = line.split('|').skip(1);
    let (at, bytes) = (number(cells.next().unwrap()), number(cells.next().unwrap()));
    at..at + bytes
}

#[test]
fn each_field_is_where_the_table_has_it() {
    let layout = Layout::new(1 << 30, 4096, 1);
    let mut base = Superblock::blank("disk", "one", &["two".to_owned()], &layout, 0);
    base.promised = 1;
    type Change = fn(&mut Superblock);
    let all: [(&str, Change); 16] = [
        ("sequence", |block| block.sequence = !0),
        ("epoch", |block| block.epoch = 1),
        ("promised", |block| block.promised = !0),
        ("data_size_bytes", |block| block.data_size_bytes = 1 << 40),
        ("block_size_bytes", |block| block.block_size_bytes = 1 << 20),
        ("peer_slots", |block| block.peer_slots = 7),
        ("disk", |block| block.disk = DiskState::UpToDate),
        ("flags", |block| block.role_primary = true),
        ("resource_id", |block| block.resource_id = [!0; 16]),
        ("current", |block| block.current = !0),
        ("history", |block| block.history = [!0; HISTORY_LEN]),
        ("diverged_at_s", |block| block.diverged_at_s = !0),
        ("changed_at_s", |block| block.changed_at_s = !0),
        ("resource", |block| block.resource = "DISK".to_owned()),
        ("node", |block| block.node = "ONE".to_owned()),
        ("peer records", |block| block.peers[0].bitmap_generation = !0),
    ];
    let before = base.encode();
    let check = told("check");
    for (field, change) in all {
        let mut block = base.clone();
        change(&mut block);
        let after = block.encode();
        let place = told(field);
        let changed = (0..before.len()).filter(|at| before[*at] != after[*at] && !check.contains(at));
        let changed: Vec<usize> = changed.collect();
        assert!(
            !changed.is_empty() && changed.iter().all(|at| place.contains(at)),
            "{field}: {changed:?}"
        );
    }
    assert_eq!(&before[told("magic")], b"blkpair\0");
}
