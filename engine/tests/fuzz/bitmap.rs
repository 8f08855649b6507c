//! A page of an out-of-sync bitmap or of the write-intent log.

use _engine::meta::{Bitmap, PageLoad, PAGE_BYTES};
use xxhash_rust::xxh3::xxh3_64;

use super::mutate::Rng;
use super::runner::Target;

pub const TARGET: Target = Target {
    name: "bitmap",
    corpus,
    words: &[b"BPpg", b"\xff\xff\xff\xff\xff\xff\xff\xff"],
    mend,
    check,
    memory: |_| 256 << 10,
    runs: 20_000,
};

/// One whole page of units and a part of the next.
const UNITS: u64 = 32512 + 70;

fn check(input: &[u8]) -> Result<String, String> {
    let mut page = [0; PAGE_BYTES];
    let length = input.len().min(PAGE_BYTES);
    page[..length].copy_from_slice(&input[..length]);
    let mut outcome = String::new();
    for mut bitmap in [Bitmap::new(UNITS), Bitmap::new_intent(UNITS)] {
        for index in 0..bitmap.pages() {
            let before = bitmap.count();
            let load = bitmap.load_page(index, &page);
            outcome += &format!("{load:?} ");
            let written = bitmap.changed_pages().any(|changed| changed == index);
            match load {
                PageLoad::Empty if page != [0; PAGE_BYTES] => {
                    return Err("bytes passed for a page never written".into())
                }
                PageLoad::Empty if bitmap.count() != before => {
                    return Err("an empty page set something".into())
                }
                // Nothing may ever pass for in sync for want of evidence.
                PageLoad::Damaged
                    if !written
                        || bitmap
                            .next_clear(first(index))
                            .is_some_and(|unit| unit < end(index)) =>
                {
                    return Err("a damaged page is not all set and due to be written".into());
                }
                PageLoad::Loaded if index == 0 && bitmap.encode_page(0)[..] != page => {
                    return Err("a page does not encode to the bytes it came from".into());
                }
                _ => {}
            }
            let counted: u64 = bitmap.runs().map(|(_, count)| count).sum();
            if counted != bitmap.count() || bitmap.count() > UNITS {
                return Err(format!("{counted} units in runs, {} in all", bitmap.count()));
            }
        }
    }
    Ok(outcome)
}

fn first(index: usize) -> u64 {
    index as u64 * 32512
}

fn end(index: usize) -> u64 {
    UNITS.min(first(index + 1))
}

fn mend(mut input: Vec<u8>, rng: &mut Rng) -> Vec<u8> {
    input.resize(PAGE_BYTES, 0);
    if !rng.one_in(8) {
        input[..6].copy_from_slice(b"BPpg\x01\0");
        input[6..12].copy_from_slice(&[1 + rng.below(2) as u8, 0, rng.below(2) as u8, 0, 0, 0]);
    }
    input[24..32].fill(0);
    let check = xxh3_64(&input);
    input[24..32].copy_from_slice(&check.to_le_bytes());
    input
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let mut some = Bitmap::new(UNITS);
    some.set(3, 70);
    some.set(32500, 30);
    let mut intent = Bitmap::new_intent(UNITS);
    intent.set_all();
    vec![
        ("out-of-sync".to_owned(), some.encode_page(0).to_vec()),
        ("last".to_owned(), some.encode_page(1).to_vec()),
        ("intent-full".to_owned(), intent.encode_page(0).to_vec()),
    ]
}
