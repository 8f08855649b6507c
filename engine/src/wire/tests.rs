//! Frames as an attacker, a bad network card and an older release would send them.

use proptest::collection::vec;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::payload::{Buffer, Payload};

const EPOCH: u64 = 0x0102_0304_0506_0708;

fn hello(node: &str, peer: &str) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: feature::ALL,
        resource: "r0".into(),
        resource_id: [0; 16],
        node: node.into(),
        peer: peer.into(),
        data_size_bytes: 1 << 30,
        block_size_bytes: 4096,
        protocol: Protocol::C,
        channel: 0,
        nonce: 7,
        intent: Intent::Replicate,
        policy: SplitBrainPolicy::Manual,
        priority: 9,
        session: None,
    }
}

/// The whole frame in one piece.
fn frame_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(payload) = encode(message, EPOCH, &mut bytes) {
        bytes.extend_from_slice(&payload);
    }
    bytes
}

/// Plays a connection's receiving half: pieces in, messages out. Ends with the decoder's first error.
#[derive(Default)]
struct Receiver {
    decoder: Decoder,
    unread: Vec<u8>,
    bulk: Option<(Buffer, usize)>,
    messages: Vec<(u64, Message)>,
}

impl Receiver {
    fn feed(&mut self, mut piece: &[u8]) -> Result<(), FrameError> {
        loop {
            if let Some((mut buffer, filled)) = self.bulk.take() {
                let taken = (buffer.len() - filled).min(piece.len());
                buffer.as_mut_slice()[filled..filled + taken].copy_from_slice(&piece[..taken]);
                piece = &piece[taken..];
                if filled + taken < buffer.len() {
                    self.bulk = Some((buffer, filled + taken));
                    return Ok(());
                }
                self.messages.push(self.decoder.finish(buffer.freeze())?);
            }
            self.unread.extend_from_slice(piece);
            piece = &[];
            match self.decoder.next(&self.unread)? {
                Step::NeedMore { bytes } => {
                    assert!(bytes > self.unread.len() && bytes <= INLINE_FRAME_MAX);
                    return Ok(());
                }
                Step::Message {
                    consumed,
                    epoch,
                    message,
                } => {
                    self.unread.drain(..consumed);
                    self.messages.push((epoch, message));
                }
                Step::Payload {
                    consumed,
                    payload_len,
                } => {
                    assert!(payload_len <= PAYLOAD_MAX as usize);
                    self.unread.drain(..consumed);
                    let taken = self.unread.len().min(payload_len);
                    let mut buffer = Buffer::new(payload_len);
                    buffer.as_mut_slice()[..taken].copy_from_slice(&self.unread[..taken]);
                    self.unread.drain(..taken);
                    self.bulk = Some((buffer, taken));
                    if taken < payload_len {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn all(bytes: &[u8]) -> (Vec<(u64, Message)>, Option<FrameError>) {
        let mut receiver = Receiver::default();
        let error = receiver.feed(bytes).err();
        (receiver.messages, error)
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9äµ-]{1,32}"
}

fn any_intent() -> impl Strategy<Value = Intent> {
    prop_oneof![
        Just(Intent::Replicate),
        any::<bool>().prop_map(|bundle| Intent::DiscardMine { bundle }),
        any::<bool>().prop_map(|bundle| Intent::DiscardYours { bundle }),
        any::<bool>().prop_map(|report| Intent::Consult { report }),
        Just(Intent::Join),
    ]
}

fn any_session() -> impl Strategy<Value = Option<SessionHello>> {
    let session = (any::<[u8; 16]>(), 1..=PATHS_MAX as u16).prop_flat_map(|(id, paths)| {
        (0..paths).prop_map(move |path| SessionHello {
            id: SessionId(id),
            path,
            paths,
        })
    });
    prop::option::of(session)
}

fn any_hello() -> impl Strategy<Value = Message> {
    let protocol = prop_oneof![Just(Protocol::A), Just(Protocol::B), Just(Protocol::C)];
    (
        (any::<[u16; 3]>(), any::<[u64; 3]>(), any::<u32>()),
        (name(), name(), name(), any::<[u8; 16]>()),
        protocol,
        (
            any_intent(),
            prop::sample::select(SplitBrainPolicy::ALL.to_vec()),
            any::<u32>(),
            any_session(),
        ),
    )
        .prop_map(
            |(
                numbers,
                (resource, node, peer, resource_id),
                protocol,
                (intent, policy, priority, session),
            )| {
                let intent = if session.is_none() && intent == Intent::Join {
                    Intent::Replicate
                } else {
                    intent
                };
                let (
                    [version_min, version_max, channel],
                    [features, data_size_bytes, nonce],
                    block_size_bytes,
                ) = numbers;
                Message::Hello(Hello {
                    version_min,
                    version_max,
                    // Said by what the session is.
                    features: features & !feature::PATHS,
                    resource,
                    resource_id,
                    node,
                    peer,
                    data_size_bytes,
                    block_size_bytes,
                    protocol,
                    channel,
                    nonce,
                    intent,
                    policy,
                    priority,
                    session,
                })
            },
        )
}

fn any_state() -> impl Strategy<Value = Message> {
    let disk = prop_oneof![
        Just(DiskState::Diskless),
        Just(DiskState::Inconsistent),
        Just(DiskState::Outdated),
        Just(DiskState::Consistent),
        Just(DiskState::UpToDate),
    ];
    let role = prop_oneof![Just(Role::Primary), Just(Role::Secondary)];
    (
        role,
        disk,
        any::<[u64; 8]>(),
        any::<[u64; 8]>(),
        any::<[bool; 5]>(),
    )
        .prop_map(|(role, disk, numbers, history, flags)| {
            let [current, bitmap, dirty_blocks, suspect_extents, epoch, promised, diverged_at_s, changed_at_s] =
                numbers;
            let [full_sync, crashed_primary, last_primary, resuming, handshake] = flags;
            Message::State(NodeState {
                role,
                disk,
                generations: Generations {
                    current,
                    bitmap,
                    history,
                },
                dirty_blocks,
                suspect_extents,
                full_sync,
                crashed_primary,
                last_primary,
                epoch,
                promised,
                diverged_at_s,
                changed_at_s,
                resuming,
                handshake,
            })
        })
}

const REASONS: [GoodbyeReason; 13] = [
    GoodbyeReason::Disconnect,
    GoodbyeReason::UnknownResource,
    GoodbyeReason::OtherResource,
    GoodbyeReason::Version,
    GoodbyeReason::Size,
    GoodbyeReason::BlockSize,
    GoodbyeReason::Protocol,
    GoodbyeReason::Refused,
    GoodbyeReason::ProtocolError,
    GoodbyeReason::UnknownNode,
    GoodbyeReason::Busy,
    GoodbyeReason::Policy,
    GoodbyeReason::Diskless,
];

fn payload() -> impl Strategy<Value = Payload> {
    vec(any::<u8>(), 1..9000).prop_map(|bytes| Payload::copy_from(&bytes))
}

/// Offset and length on a device: not empty, no wrap.
fn range() -> impl Strategy<Value = (u64, u64)> {
    (0..u64::MAX).prop_flat_map(|offset| (Just(offset), 1..=u64::MAX - offset))
}

fn any_replication() -> impl Strategy<Value = Message> {
    let seq = any::<u64>;
    prop_oneof![
        (seq(), 0..u64::MAX - 9000, payload(), any::<bool>()).prop_map(|(seq, offset, payload, fua)| {
            Message::Write {
                seq,
                offset,
                payload,
                fua,
            }
        }),
        (seq(), range(), any::<[bool; 2]>()).prop_map(|(seq, (offset, len), [fua, unmap])| {
            Message::WriteZeroes {
                seq,
                offset,
                len,
                fua,
                unmap,
            }
        }),
        (seq(), range(), any::<bool>()).prop_map(|(seq, (offset, len), fua)| Message::Trim {
            seq,
            offset,
            len,
            fua
        }),
        seq().prop_map(|seq| Message::Flush { seq }),
        seq().prop_map(|seq| Message::Received { seq }),
        (seq(), any::<u16>()).prop_map(|(seq, status)| Message::Done { seq, status }),
        seq().prop_map(|sent_ns| Message::Ping { sent_ns }),
        (seq(), any::<u64>()).prop_map(|(sent_ns, lease_ns)| Message::Pong { sent_ns, lease_ns }),
        Just(Message::Detached),
        Just(Message::DetachedOk),
        (seq(), 0..u64::MAX - u64::from(PAYLOAD_MAX), 1..=PAYLOAD_MAX)
            .prop_map(|(id, offset, len)| Message::ReadRequest { id, offset, len }),
        (seq(), 0..u64::MAX - 9000, payload()).prop_map(|(id, offset, payload)| Message::ReadData {
            id,
            offset,
            payload
        }),
        (seq(), any::<u16>()).prop_map(|(id, status)| Message::ReadFailed { id, status }),
        Just(Message::PromoteRequest),
        any::<bool>().prop_map(|allowed| Message::PromoteReply { allowed }),
        Just(Message::SyncRequest),
        any::<bool>().prop_map(|allowed| Message::SyncReply { allowed }),
    ]
}

fn any_resync() -> impl Strategy<Value = Message> {
    let run = range().prop_map(|(first, count)| BlockRun { first, count });
    let hot = range().prop_map(|(offset, len)| HotRange { offset, len });
    let chunk = (0..u64::MAX - u64::from(u32::MAX), 1..=u32::MAX);
    prop_oneof![
        (vec(run, 0..200), any::<bool>()).prop_map(|(runs, last)| Message::BitmapRuns { runs, last }),
        vec(hot, 0..200).prop_map(|ranges| Message::HotRanges { ranges }),
        any::<u64>().prop_map(|blocks| Message::ResyncStart { blocks }),
        (any::<u64>(), chunk, any::<u128>(), any::<bool>()).prop_map(|(id, (offset, len), hash, zero)| {
            Message::ChunkHash {
                id,
                offset,
                len,
                hash,
                zero,
            }
        }),
        any::<u64>().prop_map(|id| Message::ChunkSame { id }),
        (any::<u64>(), vec(any::<u128>(), 1..200))
            .prop_map(|(id, hashes)| Message::ChunkDiffers { id, hashes }),
        (any::<u64>(), 0..u64::MAX - 9000, payload()).prop_map(|(id, offset, payload)| Message::ChunkData {
            id,
            offset,
            payload
        }),
        (any::<u64>(), 0..u64::MAX - 9000, payload()).prop_map(|(id, offset, payload)| Message::ChunkWhole {
            id,
            offset,
            payload
        }),
        any::<u64>().prop_map(|id| Message::ChunkEnd { id }),
        (any::<u64>(), any::<u16>()).prop_map(|(id, status)| Message::ChunkDone { id, status }),
        (any::<u64>(), any::<[u64; 8]>(), any::<[u8; 16]>()).prop_map(|(current, history, resource_id)| {
            Message::ResyncEnd {
                current,
                history,
                resource_id,
            }
        }),
        any::<u64>().prop_map(|current| Message::ResyncEnded { current }),
        "[ -~äµ\n]{0,64}".prop_map(|text| Message::Report { text }),
        any_verify(),
        any::<u64>().prop_map(|received| Message::PathAcknowledge { received }),
        any::<[u64; 2]>().prop_map(|[turn, received]| Message::PathResume { turn, received }),
    ]
}

fn any_verify() -> impl Strategy<Value = Message> {
    let run = range().prop_map(|(first, count)| BlockRun { first, count });
    let chunk = (0..u64::MAX - u64::from(u32::MAX), 1..=u32::MAX);
    prop_oneof![
        (any::<u64>(), chunk.clone(), any::<u128>(), any::<bool>()).prop_map(
            |(id, (offset, len), hash, ordered)| Message::VerifyChunk {
                id,
                offset,
                len,
                hash,
                ordered,
            }
        ),
        any::<u64>().prop_map(|id| Message::VerifySame { id }),
        (any::<u64>(), vec(any::<u128>(), 1..200))
            .prop_map(|(id, hashes)| Message::VerifyDiffers { id, hashes }),
        (any::<u64>(), any::<u16>()).prop_map(|(id, status)| Message::VerifyFailed { id, status }),
        range().prop_map(|(offset, len)| Message::VerifyProved { offset, len }),
        (chunk, any::<[u128; 2]>()).prop_map(|((offset, len), [own, peer])| Message::VerifyFound {
            offset,
            len,
            own,
            peer
        }),
        vec(run, 1..200).prop_map(|runs| Message::VerifySave { runs }),
        (any::<bool>(), "[ -~äµ]{0,100}").prop_map(|(saved, text)| Message::VerifySaved { saved, text }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    let goodbye = (0..REASONS.len(), "[ -~äµ]{0,100}").prop_map(|(reason, text)| Message::Goodbye {
        reason: REASONS[reason],
        text,
    });
    prop_oneof![
        1 => any_hello(),
        1 => any_state(),
        1 => goodbye,
        6 => any_replication(),
        6 => any_resync(),
    ]
}

/// One message of each kind, small enough to damage every bit of it.
fn samples() -> Vec<Message> {
    let payload = Payload::copy_from(b"block data");
    let (seq, id, offset, len) = (3, 4, 8192, 4096);
    vec![
        Message::Hello(hello("a", "b")),
        Message::State(NodeState {
            role: Role::Primary,
            disk: DiskState::UpToDate,
            generations: Generations {
                current: 9,
                bitmap: 8,
                history: [7; HISTORY_LEN],
            },
            dirty_blocks: 5,
            suspect_extents: 6,
            full_sync: true,
            crashed_primary: false,
            last_primary: true,
            epoch: 1,
            promised: 2,
            diverged_at_s: 0,
            changed_at_s: 0,
            resuming: false,
            handshake: true,
        }),
        Message::Goodbye {
            reason: GoodbyeReason::Size,
            text: "too small".into(),
        },
        Message::Ping { sent_ns: 1 },
        Message::Pong {
            sent_ns: 1,
            lease_ns: 0,
        },
        Message::Write {
            seq,
            offset,
            payload: payload.clone(),
            fua: true,
        },
        Message::WriteZeroes {
            seq,
            offset,
            len: 1 << 40,
            fua: false,
            unmap: true,
        },
        Message::Trim {
            seq,
            offset,
            len: 1 << 40,
            fua: false,
        },
        Message::Flush { seq },
        Message::Received { seq },
        Message::Done { seq, status: 5 },
        Message::Detached,
        Message::DetachedOk,
        Message::ReadRequest {
            id,
            offset,
            len: 4096,
        },
        Message::ReadData {
            id,
            offset,
            payload: payload.clone(),
        },
        Message::ReadFailed { id, status: 5 },
        Message::PromoteRequest,
        Message::PromoteReply { allowed: true },
        Message::SyncRequest,
        Message::SyncReply { allowed: false },
        Message::BitmapRuns {
            runs: vec![BlockRun { first: 1, count: 2 }],
            last: true,
        },
        Message::HotRanges {
            ranges: vec![HotRange {
                offset: 65536,
                len: 4096,
            }],
        },
        Message::ResyncStart { blocks: 100 },
        Message::ChunkHash {
            id,
            offset,
            len,
            hash: 1 << 100,
            zero: false,
        },
        Message::ChunkSame { id },
        Message::ChunkDiffers {
            id,
            hashes: vec![1, 2, u128::MAX],
        },
        Message::ChunkData {
            id,
            offset,
            payload: payload.clone(),
        },
        Message::ChunkWhole { id, offset, payload },
        Message::ChunkEnd { id },
        Message::ChunkDone { id, status: 28 },
        Message::ResyncEnd {
            current: 1,
            history: [2; HISTORY_LEN],
            resource_id: [3; 16],
        },
        Message::ResyncEnded { current: 1 },
        Message::Report { text: "{}".into() },
        Message::VerifyChunk {
            id,
            offset,
            len,
            hash: 1 << 100,
            ordered: true,
        },
        Message::VerifySame { id },
        Message::VerifyDiffers {
            id,
            hashes: vec![1, u128::MAX],
        },
        Message::VerifyFailed { id, status: 5 },
        Message::VerifyProved { offset, len: 1 << 40 },
        Message::VerifyFound {
            offset,
            len,
            own: 1 << 100,
            peer: 2,
        },
        Message::VerifySave {
            runs: vec![BlockRun { first: 1, count: 2 }],
        },
        Message::VerifySaved {
            saved: true,
            text: "fine".into(),
        },
        Message::PathAcknowledge { received: 7 },
        Message::PathResume { turn: 2, received: 7 },
    ]
}

/// Makes the header check right again after tampering.
fn seal(frame: &mut [u8]) {
    let check = xxh3_64(&frame[..56]);
    frame[56..64].copy_from_slice(&check.to_le_bytes());
}

/// The same for the payload's digest.
fn seal_payload(frame: &mut [u8]) {
    let digest = xxh3_64(&frame[HEADER_LEN..]);
    frame[48..56].copy_from_slice(&digest.to_le_bytes());
    seal(frame);
}

proptest! {
    #[test]
    fn every_message_survives_any_split(
        messages in vec(any_message(), 1..12),
        sizes in vec(1usize..5000, 1..40),
        epoch: u64,
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            if let Some(payload) = encode(message, epoch, &mut stream) {
                stream.extend_from_slice(&payload);
            }
        }
        let mut receiver = Receiver::default();
        let (mut rest, mut sizes) = (&stream[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            receiver.feed(piece).unwrap();
            rest = after;
        }
        let expected: Vec<_> = messages.into_iter().map(|message| (epoch, message)).collect();
        prop_assert_eq!(receiver.messages, expected);
        prop_assert!(receiver.unread.is_empty() && receiver.bulk.is_none());
    }

    #[test]
    fn a_flipped_bit_anywhere_is_detected(message in any_message(), place: prop::sample::Index) {
        let mut frame = frame_of(&message);
        let bit = place.index(frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        let (messages, error) = Receiver::all(&frame);
        prop_assert!(messages.is_empty() && error.is_some());
    }

    #[test]
    fn a_truncated_frame_is_no_message(message in any_message(), place: prop::sample::Index) {
        let frame = frame_of(&message);
        let (messages, error) = Receiver::all(&frame[..place.index(frame.len())]);
        prop_assert!(messages.is_empty());
        prop_assert_eq!(error, None);
    }

    #[test]
    fn garbage_is_refused(bytes in vec(any::<u8>(), 4..4000)) {
        prop_assume!(bytes[..4] != MAGIC);
        let (messages, error) = Receiver::all(&bytes);
        prop_assert!(messages.is_empty());
        prop_assert!(matches!(error, Some(FrameError::Magic { .. })), "{error:?}");
    }

    /// Past magic, check and digest, as only a faulty or hostile peer gets: still no panic, and no length is
    /// announced beyond the bounds (the receiver asserts them).
    #[test]
    fn well_sealed_garbage_is_harmless(mut header in vec(any::<u8>(), 64), body in vec(any::<u8>(), 0..2000), len: bool) {
        header[..4].copy_from_slice(&MAGIC);
        header[4] %= 64;
        if len {
            header[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
        }
        let mut frame = [header, body].concat();
        seal_payload(&mut frame);
        Receiver::all(&frame);
        let _ = decode_hello(&frame);
    }

    /// The bodies' own checks: a valid frame with some bytes changed and everything sealed again.
    #[test]
    fn resealed_damage_is_harmless(message in any_message(), places in vec(any::<(prop::sample::Index, u8)>(), 1..8)) {
        let mut frame = frame_of(&message);
        for (place, byte) in places {
            let at = place.index(frame.len());
            if at >= 4 {
                frame[at] = byte;
            }
        }
        seal_payload(&mut frame);
        let (messages, _) = Receiver::all(&frame);
        for (_, message) in messages {
            // What is let through can be said again, so it is within all bounds.
            encode(&message, EPOCH, &mut Vec::new());
        }
    }
}

#[test]
fn every_single_bit_of_every_kind_is_protected() {
    for message in samples() {
        let frame = frame_of(&message);
        assert_eq!(Receiver::all(&frame), (vec![(EPOCH, message.clone())], None));
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (messages, error) = Receiver::all(&damaged);
            assert!(
                messages.is_empty(),
                "{message:?} with bit {bit} flipped gave {messages:?}"
            );
            let expected = match bit / 8 {
                0..4 => matches!(error, Some(FrameError::Magic { .. })),
                4..64 => matches!(error, Some(FrameError::HeaderCheck { .. })),
                _ => matches!(error, Some(FrameError::Digest { .. })),
            };
            assert!(expected, "{message:?} with bit {bit} flipped: {error:?}");
        }
    }
}

#[test]
fn lengths_are_bounded_before_memory_is_taken() {
    for message in samples() {
        let frame = frame_of(&message);
        let max = match message {
            Message::Write { .. }
            | Message::ReadData { .. }
            | Message::ChunkData { .. }
            | Message::ChunkWhole { .. } => PAYLOAD_MAX,
            Message::Hello(_) => HELLO_BODY_MAX as u32,
            Message::Goodbye { .. } | Message::VerifySaved { .. } => TEXT_MAX as u32,
            Message::BitmapRuns { .. } | Message::VerifySave { .. } => 16 * BITMAP_RUNS_MAX as u32,
            Message::HotRanges { .. } => 16 * HOT_RANGES_MAX as u32,
            Message::ChunkDiffers { .. } | Message::VerifyDiffers { .. } => 16 * CHUNK_BLOCKS_MAX,
            Message::Report { .. } => REPORT_MAX as u32,
            _ => (frame.len() - HEADER_LEN) as u32,
        };
        for len in [max + 1, u32::MAX] {
            let mut frame = frame.clone();
            frame[8..12].copy_from_slice(&len.to_le_bytes());
            seal(&mut frame);
            let error = Decoder::new().next(&frame).unwrap_err();
            assert!(
                matches!(error, FrameError::PayloadLength { len: found, max: bound, .. } if (found, bound) == (len, max)),
                "{message:?}: {error}"
            );
        }
    }
}

#[test]
fn unused_fields_must_be_zero_but_in_frozen_kinds() {
    for message in samples() {
        let frame = frame_of(&message);
        let frozen = matches!(message, Message::Hello(_) | Message::Goodbye { .. });
        // The highest flag, the reserved field, and every later field that the kind leaves at zero.
        for at in [5, 12, 30, 38, 46] {
            let mut frame = frame.clone();
            frame[at] |= 0x80;
            seal(&mut frame);
            let (messages, error) = Receiver::all(&frame);
            if frozen {
                assert_eq!(messages, [(EPOCH, message.clone())]);
            } else if at == 5 || at == 12 {
                assert!(
                    matches!(error, Some(FrameError::Field { .. })),
                    "{message:?} at {at}: {error:?}"
                );
            } else if let Some((_, changed)) = messages.first() {
                // The field is in use: it must have changed what was said.
                assert_ne!(*changed, message, "byte {at}");
            }
        }
    }
}

#[test]
fn ranges_must_not_be_empty_or_wrap() {
    let trim = frame_of(&Message::Trim {
        seq: 1,
        offset: 4096,
        len: 4096,
        fua: false,
    });
    for (offset, len, field) in [(4096, 0, "length"), (u64::MAX - 4095, 4096, "offset")] {
        let mut frame = trim.clone();
        frame[32..40].copy_from_slice(&u64::to_le_bytes(offset));
        frame[40..48].copy_from_slice(&u64::to_le_bytes(len));
        seal(&mut frame);
        let error = Decoder::new().next(&frame).unwrap_err();
        assert!(
            matches!(error, FrameError::Field { field: found, .. } if found == field),
            "{error}"
        );
    }
}

#[test]
fn a_payload_must_be_announced_and_whole() {
    let message = &samples()[5];
    let mut header = Vec::new();
    let payload = encode(message, EPOCH, &mut header).expect("a Write has bulk data");
    assert_eq!(header.len(), HEADER_LEN);
    let mut decoder = Decoder::new();
    assert!(matches!(
        decoder.finish(payload.clone()),
        Err(FrameError::PayloadMismatch { expected: 0, .. })
    ));
    let announced = |consumed| Step::Payload {
        consumed,
        payload_len: payload.len(),
    };
    assert_eq!(decoder.next(&header), Ok(announced(HEADER_LEN)));
    assert_eq!(decoder.next(&[]), Ok(announced(0)));
    let short = payload.slice(0..payload.len() - 1);
    assert!(matches!(
        decoder.finish(short),
        Err(FrameError::PayloadMismatch { .. })
    ));
}

/// These bytes must decode in every version to come.
#[test]
fn the_layout_of_hello_is_frozen() {
    let mut said = hello("a", "bb");
    said.version_max = 0x0302;
    said.resource_id = std::array::from_fn(|index| index as u8);
    said.features = 0x0807_0605_0403_0201;
    said.channel = 0x0504;
    said.intent = Intent::DiscardYours { bundle: false };
    let frame = frame_of(&Message::Hello(said.clone()));
    let mut body = vec![1, 0, 2, 3, 3, 1, 4, 5];
    body.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    body.extend_from_slice(&[0, 0, 0, 0x40, 0, 0, 0, 0]);
    body.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
    body.extend_from_slice(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    body.extend_from_slice(&[0, 0x10, 0, 0, 2, 1, 2, 0x82]);
    body.extend_from_slice(&[9, 0, 0, 0]);
    body.extend_from_slice(b"r0abb");
    assert_eq!(&frame[HEADER_LEN..], body);
    let mut header = b"BPRF\x01\0\0\0".to_vec();
    header.extend_from_slice(&[65, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
    header.extend_from_slice(&[0; 24]);
    header.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    header.extend_from_slice(&xxh3_64(&header).to_le_bytes());
    assert_eq!(&frame[..HEADER_LEN], header);

    // A later version may say more; an older one still understands it.
    let mut longer = [&frame[..], b"what version 9 adds"].concat();
    let len = (longer.len() - HEADER_LEN) as u32;
    longer[8..12].copy_from_slice(&len.to_le_bytes());
    longer[5] = 0xff;
    seal_payload(&mut longer);
    assert_eq!(
        decode_hello(&longer),
        Ok(HelloStep::Hello {
            consumed: longer.len(),
            epoch: EPOCH,
            hello: said
        })
    );
}

#[test]
fn a_hello_says_its_session_after_the_names() {
    let mut said = hello("a", "bb");
    let session = SessionHello {
        id: SessionId(std::array::from_fn(|index| index as u8)),
        path: 1,
        paths: 2,
    };
    (said.session, said.intent) = (Some(session), Intent::Join);
    let frame = frame_of(&Message::Hello(said.clone()));
    let body = &frame[HEADER_LEN..];
    assert_eq!((body[8], body[55]), (feature::ALL as u8 | 8, 5));
    assert_eq!(
        &body[65..],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 0, 2, 0]
    );
    assert!(
        !format!("{said:?}").contains("15"),
        "the session's id is a secret"
    );

    let with = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[HEADER_LEN + at] = byte;
        seal_payload(&mut frame);
        decode_hello(&frame)
    };
    assert!(with(81, 0).is_ok());
    // No such path; more paths than can be; a session to join that is not there.
    for (at, byte) in [(81, 2), (84, 1), (8, 7)] {
        assert!(
            matches!(with(at, byte), Err(FrameError::Body { .. })),
            "byte {at} is {byte}"
        );
    }
    let mut short = frame[..frame.len() - 1].to_vec();
    let len = (short.len() - HEADER_LEN) as u32;
    short[8..12].copy_from_slice(&len.to_le_bytes());
    seal_payload(&mut short);
    assert!(matches!(decode_hello(&short), Err(FrameError::Body { .. })));
}

#[test]
fn the_listener_needs_no_more_than_one_hello() {
    let frame = frame_of(&Message::Hello(hello("a", "b")));
    let mut have = 0;
    let hello = loop {
        match decode_hello(&frame[..have]).unwrap() {
            HelloStep::NeedMore { bytes } => {
                assert!(
                    bytes > have && bytes <= frame.len(),
                    "asked for {bytes} bytes with {have} there"
                );
                have = bytes;
            }
            HelloStep::Hello { consumed, hello, .. } => {
                assert_eq!(consumed, have);
                break hello;
            }
        }
    };
    assert_eq!((have, hello.node.as_str()), (frame.len(), "a"));
    let more = [&frame[..], b"the next message"].concat();
    let step = decode_hello(&more).unwrap();
    assert!(matches!(step, HelloStep::Hello { consumed, .. } if consumed == frame.len()));
    for other in samples().into_iter().skip(1) {
        // By its header alone: no time and no memory for a body that nobody asked for.
        let error = decode_hello(&frame_of(&other)[..HEADER_LEN]).unwrap_err();
        assert!(matches!(error, FrameError::NotHello { .. }), "{error}");
    }
}

#[test]
fn bodies_with_impossible_values_are_refused() {
    let cases: [(usize, usize, u8, &str); 11] = [
        (0, 4, 9, "protocol 9"),
        (0, 53, 200, "node name of 200 bytes"),
        (0, 54, 2, "peer name of 2 bytes, with 1 bytes left"),
        (0, 5, 0, "unknown split brain policy 0"),
        (0, 55, 5, "it joins no session"),
        (0, 55, 6, "unknown intent 0x6"),
        (0, 55, 0x80, "unknown intent 0x80"),
        (0, 60, 0xff, "resource name is not printable"),
        (0, 60, 0x1b, "resource name is not printable"),
        (1, 0, 3, "role 3"),
        (1, 1, 5, "disk state 5"),
    ];
    for (sample, at, byte, expected) in cases {
        let mut frame = frame_of(&samples()[sample]);
        frame[HEADER_LEN + at] = byte;
        seal_payload(&mut frame);
        let (messages, error) = Receiver::all(&frame);
        assert!(messages.is_empty());
        let text = error.expect("an error").to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn runs_must_not_be_empty_or_wrap() {
    for (first, count, valid) in [(1, u64::MAX - 1, true), (2, u64::MAX - 1, false), (1, 0, false)] {
        let runs = vec![BlockRun { first, count }];
        let ranges = vec![HotRange {
            offset: first,
            len: count,
        }];
        for message in [
            Message::BitmapRuns { runs, last: false },
            Message::HotRanges { ranges },
        ] {
            let (messages, error) = Receiver::all(&frame_of(&message));
            assert_eq!(messages.len(), usize::from(valid));
            assert_eq!(
                matches!(error, Some(FrameError::Body { .. })),
                !valid,
                "{error:?}"
            );
        }
    }
}

#[test]
fn goodbyes_are_cut_and_cleaned_for_terminals() {
    let said = Message::Goodbye {
        reason: GoodbyeReason::Refused,
        text: format!("\x1b[2J{}", "µ".repeat(TEXT_MAX)),
    };
    let (messages, error) = Receiver::all(&frame_of(&said));
    assert_eq!(error, None);
    let Message::Goodbye { text, .. } = &messages[0].1 else {
        panic!("{messages:?}")
    };
    assert_eq!(*text, format!(" [2J{}", "µ".repeat(TEXT_MAX / 2 - 2)));
}

#[test]
fn two_equal_nodes_agree() {
    let (a, mut b) = (hello("a", "b"), hello("b", "a"));
    b.version_max = 3;
    b.features = feature::TRIM | 1 << 40;
    b.resource_id = [5; 16];
    let expected = Session {
        version: 1,
        features: feature::TRIM,
    };
    assert_eq!(negotiate(&a, &b), Ok(expected));
    assert_eq!(negotiate(&b, &a), Ok(expected));
}

#[test]
fn each_difference_is_refused_with_reason_and_remedy() {
    type Case = (GoodbyeReason, fn(&mut Hello), &'static [&'static str]);
    let cases: [Case; 12] = [
        (
            GoodbyeReason::Version,
            |b| (b.version_min, b.version_max) = (2, 3),
            &["versions 2 to 3", "version 1", "update blockpair on node a"],
        ),
        (
            GoodbyeReason::Version,
            |b| b.version_min = 2,
            &["node b offers no wire version"],
        ),
        (
            GoodbyeReason::UnknownResource,
            |b| b.resource = "r1".into(),
            &["r0", "r1", "same name on both"],
        ),
        (
            GoodbyeReason::UnknownNode,
            |b| b.node = "c".into(),
            &["expects its peer to be b"],
        ),
        (
            GoodbyeReason::UnknownNode,
            |b| b.node = "a".into(),
            &["both nodes call themselves a"],
        ),
        (
            GoodbyeReason::UnknownNode,
            |b| b.peer = "c".into(),
            &["expects its peer to be c"],
        ),
        (
            GoodbyeReason::OtherResource,
            |b| b.resource_id = [0x11; 16],
            &["22222222", "11111111", "may be lost"],
        ),
        (
            GoodbyeReason::Size,
            |b| b.data_size_bytes -= 4096,
            &["1073741824", "1073737728", "enlarge the device on node b"],
        ),
        (
            GoodbyeReason::Size,
            |b| b.data_size_bytes += 4096,
            &["1073741824", "1073745920", "enlarge the device on node a"],
        ),
        (
            GoodbyeReason::BlockSize,
            |b| b.block_size_bytes = 8192,
            &["4096", "8192", "create"],
        ),
        (
            GoodbyeReason::Protocol,
            |b| b.protocol = Protocol::A,
            &["protocol C", "same protocol"],
        ),
        (
            GoodbyeReason::Policy,
            |b| b.policy = SplitBrainPolicy::Priority,
            &["policy manual", "priority", "same policy on both"],
        ),
    ];
    for (reason, change, expected) in cases {
        let (mut a, mut b) = (hello("a", "b"), hello("b", "a"));
        a.resource_id = [0x22; 16];
        change(&mut b);
        let text = negotiate(&a, &b).map_err(|(found, text)| {
            assert_eq!(found, reason, "{text}");
            text
        });
        let text = text.expect_err("a refusal");
        for part in expected {
            assert!(text.contains(part), "{part:?} is missing in {text:?}");
        }
        assert_eq!(
            negotiate(&b, &a).expect_err("a refusal on the other side too").0,
            reason
        );
    }
    let mut b = hello("b", "a");
    b.channel = 1;
    assert_eq!(
        negotiate(&hello("a", "b"), &b).unwrap_err().0,
        GoodbyeReason::ProtocolError
    );
}

#[test]
fn refusals_fit_a_goodbye_even_with_the_longest_names() {
    let longest = |letter: &str| letter.repeat(NAME_MAX);
    let changes: [fn(&mut Hello); 10] = [
        |b| (b.version_min, b.version_max) = (u16::MAX - 1, u16::MAX),
        |b| (b.version_min, b.version_max) = (u16::MAX, u16::MAX - 1),
        |b| b.resource = "s".repeat(NAME_MAX),
        |b| b.peer = "c".repeat(NAME_MAX),
        |b| b.node = "a".repeat(NAME_MAX),
        |b| b.resource_id = [0x11; 16],
        |b| b.data_size_bytes = u64::MAX,
        |b| b.block_size_bytes = u32::MAX,
        |b| b.policy = SplitBrainPolicy::DiscardYoungerPrimary,
        |b| b.channel = u16::MAX,
    ];
    for change in changes {
        let mut a = hello(&longest("a"), &longest("b"));
        let mut b = hello(&longest("b"), &longest("a"));
        (a.resource, b.resource, a.resource_id) = (longest("r"), longest("r"), [0x22; 16]);
        a.data_size_bytes = u64::MAX - 1;
        b.data_size_bytes = a.data_size_bytes;
        change(&mut b);
        let (_, text) = negotiate(&a, &b).unwrap_err();
        assert!(text.len() <= TEXT_MAX, "{} bytes: {text}", text.len());
    }
}
