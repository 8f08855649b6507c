//! The dialogue over real sockets, with answers that are whole, cut off, out of order, too long, or garbage.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::*;
use crate::core::{Consultation, CONSULTED_RUNS_MAX};
use crate::io::channel::Channel;
use crate::io::dial::{Destination, PeerAddress};
use crate::io::shared::Shared;
use crate::io::tls::TrustStore;
use crate::wire::{self, *};

fn told(node: &str, peer: &str, current: u64, runs: &[(u64, u64)]) -> Consultation {
    let runs: Vec<BlockRun> = (runs.iter())
        .map(|(first, count)| BlockRun {
            first: *first,
            count: *count,
        })
        .collect();
    let mut history = [0; HISTORY_LEN];
    history[0] = 5;
    Consultation {
        hello: Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            features: wire::feature::ALL,
            resource: "r0".into(),
            resource_id: [7; 16],
            node: node.into(),
            peer: peer.into(),
            data_size_bytes: 2 << 20,
            block_size_bytes: 4096,
            protocol: Protocol::C,
            channel: 0,
            nonce: 0,
            intent: Intent::Consult { report: false },
            policy: SplitBrainPolicy::Manual,
            priority: 0,
            session: None,
        },
        state: NodeState {
            role: Role::Secondary,
            disk: DiskState::UpToDate,
            generations: Generations {
                current,
                bitmap: 5,
                history,
            },
            dirty_blocks: runs.iter().map(|run| run.count).sum(),
            suspect_extents: 0,
            full_sync: false,
            crashed_primary: false,
            last_primary: true,
            epoch: 3,
            promised: 3,
            diverged_at_s: 1000,
            changed_at_s: 0,
            resuming: false,
            handshake: true,
        },
        marks: Some(runs),
    }
}

fn at(port: u16) -> Destination {
    Destination {
        name: "b".into(),
        addresses: vec![PeerAddress {
            host: "127.0.0.1".into(),
            port,
        }],
        tls: false,
        trust: TrustStore::default(),
        changes: 0,
    }
}

fn reports() -> Arc<Reports> {
    Arc::new(Reports::new(Arc::new(Shared::new().unwrap())))
}

/// Serves the next connection with `serve` once its Hello was read; the port.
fn peer(serve: impl FnOnce(TcpStream, Hello) + Send + 'static) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        loop {
            match decode_hello(&bytes).unwrap() {
                HelloStep::Hello { hello, .. } => return serve(stream, hello),
                HelloStep::NeedMore { bytes: wanted } => {
                    let have = bytes.len();
                    bytes.resize(wanted, 0);
                    stream.read_exact(&mut bytes[have..]).unwrap();
                }
            }
        }
    });
    (port, thread)
}

fn frames(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        encode(message, 0, &mut bytes);
    }
    bytes
}

#[test]
fn a_question_is_answered_whole() {
    // More runs than one frame has.
    let many: Vec<(u64, u64)> = (0..BITMAP_RUNS_MAX as u64 + 1).map(|n| (3 * n, 1)).collect();
    for runs in [&[][..], &[(0, 4), (250, 7)], &many] {
        let answer = told("b", "a", 9, runs);
        let expected = answer.clone();
        let (port, thread) = peer({
            let answers = Answers::new(reports());
            move |stream, hello| answers.give(Channel::plain(stream).unwrap(), &hello.node, answer, false)
        });
        let found = ask(&at(port), &told("a", "b", 8, &[])).unwrap();
        assert_eq!((found.told, found.report.as_str()), (expected, ""));
        thread.join().unwrap();
    }
}

#[test]
fn without_marks_the_counts_have_to_do() {
    let mut answer = told("b", "a", 9, &[(0, 4)]);
    answer.marks = None;
    let (port, thread) = peer(move |stream, _| {
        Answers::new(reports()).give(Channel::plain(stream).unwrap(), "a", answer, false)
    });
    let own = told("a", "b", 8, &[(2, 4)]);
    let found = plan(&own, &ask(&at(port), &own));
    thread.join().unwrap();
    assert_eq!(found["decision"]["rule"], "split-brain");
    assert_eq!(found["decision"]["compared"]["blocks"], 8);
    assert_eq!(found["decision"]["compared"]["exact"], false);
}

#[test]
fn the_control_plane_s_report_comes_last() {
    let reports = reports();
    let (port, thread) = peer({
        let reports = reports.clone();
        move |stream, hello| {
            assert_eq!(hello.intent, Intent::Consult { report: true });
            Answers::new(reports.clone()).give(
                Channel::plain(stream).unwrap(),
                &hello.node,
                told("b", "a", 9, &[]),
                true,
            );
            // The daemon's part: it is told who asks, and answers.
            let asked = std::iter::repeat_with(|| reports.take_asked()).find(|asked| !asked.is_empty());
            assert_eq!(asked.unwrap(), ["a"]);
            assert!(!reports.tell("a", &"x".repeat(REPORT_MAX + 1)));
            assert!(reports.tell("a", "{\"lost\": 1}"));
        }
    });
    let mut own = told("a", "b", 8, &[]);
    own.hello.intent = Intent::Consult { report: true };
    let found = ask(&at(port), &own).unwrap();
    assert_eq!(found.report, "{\"lost\": 1}");
    thread.join().unwrap();
}

#[test]
fn what_is_no_answer_is_an_error_and_nothing_else() {
    let whole = told("b", "a", 9, &[]);
    let (hello, state) = (Message::Hello(whole.hello), Message::State(whole.state));
    let runs = |last| Message::BitmapRuns {
        runs: vec![BlockRun { first: 0, count: 1 }; BITMAP_RUNS_MAX],
        last,
    };
    let report = Message::Report { text: String::new() };
    let mut damaged = frames(std::slice::from_ref(&hello));
    damaged[70] ^= 1;
    let mut endless = vec![hello.clone(), state.clone()];
    endless.extend((0..=CONSULTED_RUNS_MAX / BITMAP_RUNS_MAX).map(|_| runs(false)));
    let goodbye = Message::Goodbye {
        reason: GoodbyeReason::UnknownResource,
        text: "no resource r0 is up here".into(),
    };
    let cases = [
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "not a blockpair frame"),
        (damaged, "damaged"),
        (frames(&[]), "closed the connection"),
        (frames(&[hello.clone(), state.clone()]), "closed the connection"),
        (frames(&[state.clone(), hello.clone()]), "out of order"),
        (frames(&[hello.clone(), report.clone()]), "out of order"),
        (
            frames(&[hello.clone(), state, runs(false), report]),
            "out of order",
        ),
        (frames(&endless), "more marks than it may"),
        (frames(&[goodbye]), "no resource r0 is up here"),
    ];
    for (bytes, expected) in cases {
        let (port, thread) = peer(move |mut stream, _| {
            // The asker may have turned away before the end.
            let _ = stream.write_all(&bytes);
        });
        let own = told("a", "b", 8, &[]);
        let answer = ask(&at(port), &own);
        let why = answer.as_ref().unwrap_err().clone();
        assert!(why.contains(expected), "{why}, not {expected}");
        let found = plan(&own, &answer);
        assert_eq!(found["problem"], why);
        assert!(found["decision"].is_null() && found["other"].is_null(), "{found}");
        assert_eq!(found["own"]["node"], "a");
        thread.join().unwrap();
    }
}

#[test]
fn too_many_askers_are_sent_away() {
    let answers = Arc::new(Answers::new(reports()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        waiting.push(TcpStream::connect(address).unwrap());
        // They wait for a report that nobody makes.
        let asker = Channel::plain(listener.accept().unwrap().0).unwrap();
        answers.give(asker, "a", told("b", "a", 9, &[]), true);
    }
    let (port, thread) = peer({
        let answers = answers.clone();
        move |stream, hello| {
            answers.give(
                Channel::plain(stream).unwrap(),
                &hello.node,
                told("b", "a", 9, &[]),
                false,
            )
        }
    });
    let refused = ask(&at(port), &told("a", "b", 8, &[])).unwrap_err();
    assert!(refused.contains("too many"), "{refused}");
    thread.join().unwrap();
}

#[test]
fn the_plan_is_the_handshake_s() {
    let answer = |told: Consultation| {
        Ok(super::ask::Answer {
            told,
            report: "{}".into(),
        })
    };
    let own = told("a", "b", 8, &[(0, 4), (256, 1)]);
    let mut other = told("b", "a", 9, &[(2, 4)]);
    let found = plan(&own, &answer(other.clone()));
    assert_eq!(found["decision"]["direction"], "split-brain");
    assert!(found["decision"]["victim"].is_null());
    assert!(found["decision"]["reason"]
        .as_str()
        .unwrap()
        .contains("policy manual"));
    assert_eq!(found["decision"]["compared"]["blocks"], 7);
    assert_eq!(found["own"]["marked"]["bytes"], 5 * 4096);
    assert_eq!(found["report"], "{}");

    // An ancestor's child is synced from, by what is marked.
    other.state.generations.current = 5;
    let found = plan(&own, &answer(other.clone()));
    assert_eq!(found["decision"]["rule"], "self-ahead");
    assert_eq!(
        (&found["decision"]["source"], &found["decision"]["target"]),
        (&"a".into(), &"b".into())
    );

    // What the handshake refuses before any verdict is refused here with the same words.
    other.hello.policy = SplitBrainPolicy::Priority;
    let found = plan(&own, &answer(other));
    assert_eq!(found["decision"]["direction"], "refuse");
    assert_eq!(found["decision"]["goodbye"], "Policy");
}
