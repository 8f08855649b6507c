//! Two sessions against each other: in pieces of any size, with other keys in between, cut off and damaged anywhere.

#[path = "../../../tests/tls/certificates.rs"]
mod certificates;

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use certificates::Ca;

static TRUST: LazyLock<[Trust; 2]> = LazyLock::new(|| {
    let ca = Ca::new();
    ["a", "b"].map(|name| Trust::parse(&ca.trust(name).to_string()).unwrap())
});

/// What `from` has to say, given to `to` in pieces; the plaintext that comes of it.
fn carry(from: &mut Session, to: &mut Session, piece: usize) -> Result<Vec<u8>, String> {
    let mut plaintext = Vec::new();
    let bytes = from.outgoing().to_vec();
    from.sent(bytes.len());
    for part in bytes.chunks(piece) {
        to.room(part.len()).copy_from_slice(part);
        to.filled(part.len());
        to.advance(&mut |bytes| plaintext.extend_from_slice(bytes))?;
        // What is left is less than a record, so that no poll is missed.
        assert!(to.waiting() < RECORD_MAX + 1024);
    }
    Ok(plaintext)
}

/// a, who has dialled, and b.
fn fresh() -> (Session, Session) {
    let mut a = Session::client(&TRUST[0], "b").unwrap();
    assert_eq!(a.advance(&mut |_| {}), Ok(State::Handshake));
    (a, Session::server(&TRUST[1]).unwrap())
}

fn open(piece: usize) -> (Session, Session) {
    let (mut a, mut b) = fresh();
    while a.state() == State::Handshake || b.state() == State::Handshake {
        assert!(b.check_peer("a").is_err(), "believed before it was proved");
        assert!(carry(&mut a, &mut b, piece).unwrap().is_empty());
        assert!(carry(&mut b, &mut a, piece).unwrap().is_empty());
    }
    (a, b)
}

#[test]
fn a_handshake_may_come_byte_by_byte() {
    let (a, b) = open(1);
    a.check_peer("b").unwrap();
    b.check_peer("a").unwrap();
}

#[derive(Clone, Debug)]
enum Move {
    /// This many bytes, from a if the flag says so.
    Send(bool, usize),
    Refresh(bool),
    /// What waits is carried over in pieces of this size.
    Carry(bool, usize),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        (any::<bool>(), prop_oneof![1usize..200, 1usize..100_000]).prop_map(|(a, len)| Move::Send(a, len)),
        any::<bool>().prop_map(Move::Refresh),
        (any::<bool>(), prop_oneof![1usize..50, 1usize..100_000]).prop_map(|(a, len)| Move::Carry(a, len)),
    ]
}

fn noise(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + seed * 31 + at / 253) as u8).collect()
}

/// Whether the byte is of a record's version, which means nothing and MUST be ignored (RFC 8446, 5.1).
fn names_a_version(records: &[u8], at: usize) -> bool {
    let mut start = 0;
    while start <= at {
        let length = usize::from(u16::from_be_bytes([records[start + 3], records[start + 4]]));
        if (start + 1..=start + 2).contains(&at) {
            return true;
        }
        start += 5 + length;
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_goes_in_comes_out(piece in 1usize..2000, moves in prop::collection::vec(moves(), 1..30)) {
        let (mut a, mut b) = open(piece);
        a.check_peer("b").unwrap();
        b.check_peer("a").unwrap();
        prop_assert_eq!(b.check_peer("c").unwrap_err(), "the certificate is that of a, not of c");
        let mut sent = [Vec::new(), Vec::new()];
        let mut came = [Vec::new(), Vec::new()];
        let last = [Move::Carry(true, 999), Move::Carry(false, 999), Move::Carry(true, 999)];
        for (seed, step) in moves.into_iter().chain(last).enumerate() {
            match step {
                Move::Send(from_a, len) => {
                    let bytes = noise(seed, len);
                    let side = if from_a { &mut a } else { &mut b };
                    if side.takes_more() {
                        side.encrypt(&bytes).unwrap();
                        sent[usize::from(from_a)].extend_from_slice(&bytes);
                    }
                }
                Move::Refresh(true) => a.refresh_keys(),
                Move::Refresh(false) => b.refresh_keys(),
                Move::Carry(true, size) => came[1].extend(carry(&mut a, &mut b, size).unwrap()),
                Move::Carry(false, size) => came[0].extend(carry(&mut b, &mut a, size).unwrap()),
            }
        }
        prop_assert!(sent == came);
        a.close().unwrap();
        let end = a.outgoing().len();
        b.room(end + 1000)[..end].copy_from_slice(a.outgoing());
        a.sent(end);
        b.filled(end + 1000);
        prop_assert_eq!(b.advance(&mut |_| panic!("after the end")), Ok(State::Ended));
        prop_assert_eq!(b.waiting(), 0);
        // What the one side says after its end is not heard, and does not pile up; the other may still speak.
        b.room(1000).fill(7);
        b.filled(1000);
        prop_assert_eq!(b.advance(&mut |_| panic!("after the end")), Ok(State::Ended));
        prop_assert_eq!(b.waiting(), 0);
        b.encrypt(b"last words").unwrap();
        b.close().unwrap();
        prop_assert_eq!(carry(&mut b, &mut a, 1000).unwrap(), b"last words");
        prop_assert_eq!(a.state(), State::Ended);
    }

    #[test]
    fn what_is_cut_off_has_not_ended(len in 0usize..40_000, kept in any::<prop::sample::Index>()) {
        let (mut a, mut b) = open(4096);
        let bytes = noise(1, len);
        if len > 0 {
            a.encrypt(&bytes).unwrap();
        }
        a.close().unwrap();
        let whole = a.outgoing().to_vec();
        let part = &whole[..kept.index(whole.len())];
        b.room(part.len()).copy_from_slice(part);
        b.filled(part.len());
        let mut came = Vec::new();
        prop_assert_eq!(b.advance(&mut |bytes| came.extend_from_slice(bytes)), Ok(State::Open));
        prop_assert!(bytes.starts_with(&came));
    }

    #[test]
    fn what_is_damaged_is_not_believed(len in 1usize..40_000, at in any::<prop::sample::Index>(), flip in 1u8..) {
        let (mut a, mut b) = open(4096);
        let bytes = noise(2, len);
        a.encrypt(&bytes).unwrap();
        let mut damaged = a.outgoing().to_vec();
        let at = at.index(damaged.len());
        if names_a_version(&damaged, at) {
            return Ok(());
        }
        damaged[at] ^= flip;
        b.room(damaged.len()).copy_from_slice(&damaged);
        b.filled(damaged.len());
        let mut came = Vec::new();
        // A length that is damaged may just mean that more is waited for.
        let result = b.advance(&mut |bytes| came.extend_from_slice(bytes));
        prop_assert!(result.is_err() || b.waiting() > 0);
        prop_assert!(bytes.starts_with(&came) && came.len() <= at);
        if result.is_err() {
            prop_assert_eq!(b.state(), State::Failed);
            prop_assert!(b.advance(&mut |_| panic!("of a session that has failed")).is_err());
            prop_assert!(b.encrypt(b"more").is_err());
            b.close().unwrap();
            prop_assert!(carry(&mut b, &mut a, 100).is_err(), "no alert came");
        }
    }

    #[test]
    fn a_stranger_s_bytes_never_open_it(
        garbage in prop::collection::vec(any::<u8>(), 0..2000),
        kept in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (a, mut b) = fresh();
        let mut hello = a.outgoing().to_vec();
        for (at, to) in flips {
            let at = at.index(hello.len());
            hello[at] = to;
        }
        hello.truncate(kept.index(hello.len() + 1));
        hello.extend(garbage);
        for part in hello.chunks(300) {
            b.room(part.len()).copy_from_slice(part);
            b.filled(part.len());
            match b.advance(&mut |_| panic!("plaintext of a stranger")) {
                Ok(state) => prop_assert_eq!(state, State::Handshake),
                Err(_) => break,
            }
        }
        prop_assert!(b.check_peer("a").is_err());
    }
}

#[test]
fn a_handshake_without_end_is_cut_short() {
    let (_, mut b) = fresh();
    // A ClientHello announced with 16 MiB, in records that are whole.
    let mut record = vec![0x16, 3, 1, 0x10, 0];
    record.extend([1, 0xff, 0xff, 0xff]);
    record.resize(5 + 0x1000, 0);
    let failed = (0..100).any(|_| {
        b.room(record.len()).copy_from_slice(&record);
        b.filled(record.len());
        b.advance(&mut |_| {}).is_err()
    });
    assert!(failed && b.waiting() <= 80 << 10, "{} bytes wait", b.waiting());
}
