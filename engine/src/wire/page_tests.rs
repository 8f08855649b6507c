//! The book's page of the protocol says what this build speaks.

use super::{flag, Header, Kind, Shape, HEADER_LEN, LENGTH, OFFSET, SEQ, STATUS};

const PAGE: &str = include_str!("../../../docs/reference/wire.md");
const SOURCE: &str = include_str!("frame.rs");

fn names(set: u8, of: &[(u8, &str)]) -> String {
    let found: Vec<&str> = of
        .iter()
        .filter(|(bit, _)| set & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    found.join(", ")
}

fn row(kind: Kind) -> String {
    let Shape {
        flags,
        fields,
        payload_min: min,
        payload_max: max,
    } = kind.shape();
    let flags = names(
        flags,
        &[
            (flag::FUA, "FUA"),
            (flag::UNMAP, "UNMAP"),
            (flag::ZERO, "ZERO"),
            (flag::LAST, "LAST"),
            (flag::ALLOWED, "ALLOWED"),
            (flag::ORDERED, "ORDERED"),
        ],
    );
    let fields = names(
        fields,
        &[
            (SEQ, "`seq`"),
            (OFFSET, "`offset`"),
            (LENGTH, "`length`"),
            (STATUS, "`status`"),
        ],
    );
    let payload = match (min, max) {
        (_, 0) => String::new(),
        (min, max) if min == max => format!("{max}"),
        (min, max) => format!("{min} to {max}"),
    };
    format!("| {} | {kind:?} | {flags} | {fields} | {payload} |", kind as u8)
}

#[test]
fn the_book_has_every_message() {
    let mut table =
        "| Kind | Message | Flags | Fields | Payload in bytes |\n| ---: | --- | --- | --- | --- |".to_owned();
    for kind in (0..=u8::MAX).filter_map(Kind::from_byte) {
        table += "\n";
        table += &row(kind);
    }
    assert!(
        PAGE.contains(&format!("## Messages\n\n{table}\n\n")),
        "docs/reference/wire.md, Messages:\n\n{table}\n"
    );
}

/// Where the module's text has a field: its first byte, and how many.
fn told(field: &str) -> std::ops::Range<usize> {
    let line = SOURCE
        .lines()
        .find(|line| line.starts_with("//! |") && line.contains(&format!("`{field}`")))
        .expect(field);
    let mut cells = line.split('|').skip(1).map(|cell| cell.trim().parse::<usize>());
    let (at, bytes) = (cells.next(), cells.next());
    let (at, bytes) = (at.unwrap().unwrap(), bytes.unwrap().unwrap());
    at..at + bytes
}

#[test]
fn each_field_of_the_header_is_where_the_table_has_it() {
    let plain = || Header::new(Kind::Write, 0);
    type Change = fn(&mut Header);
    let set = |change: Change| {
        let mut header = plain();
        change(&mut header);
        header.to_bytes()
    };
    let all: [(&str, Change); 8] = [
        ("flags", |header| header.flags = !0),
        ("status", |header| header.status = !0),
        ("payload_len", |header| header.payload_len = !0),
        ("epoch", |header| header.epoch = !0),
        ("seq", |header| header.seq = !0),
        ("offset", |header| header.offset = !0),
        ("length", |header| header.length = !0),
        ("payload_digest", |header| header.payload_digest = !0),
    ];
    let before = plain().to_bytes();
    let check = told("header_check");
    for (field, change) in all {
        let after = set(change);
        let changed: Vec<usize> = (0..HEADER_LEN)
            .filter(|at| before[*at] != after[*at] && !check.contains(at))
            .collect();
        assert_eq!(changed, told(field).collect::<Vec<_>>(), "{field}");
    }
    assert_eq!(before[told("magic")], super::MAGIC);
    assert_eq!(before[told("kind")], [Kind::Write as u8]);
}
