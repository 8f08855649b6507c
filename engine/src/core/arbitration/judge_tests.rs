//! Every view of a small universe.

use super::judge::*;
use crate::core::types::*;

const ME: &str = "a";
const PEER: &str = "b";

fn configuration(epoch: u64, primary: &str, in_sync: &[&str]) -> Configuration {
    Configuration {
        epoch,
        primary: primary.into(),
        in_sync: in_sync.iter().map(ToString::to_string).collect(),
    }
}

fn registers() -> Vec<Option<Configuration>> {
    let mut all = vec![None];
    for epoch in 1..=5 {
        for primary in [ME, PEER] {
            for in_sync in [&[ME][..], &[PEER], &[ME, PEER]] {
                all.push(Some(configuration(epoch, primary, in_sync)));
            }
        }
    }
    all
}

const LINKS: [Link; 5] = [
    Link::Gone,
    Link::Meeting,
    Link::Catching,
    Link::Equal,
    Link::Other,
];
const BOOL: [bool; 2] = [false, true];

fn views(mut check: impl FnMut(&View)) {
    let own = configuration(4, ME, &[ME]);
    for link in LINKS {
        for (epoch, promised) in [(0, 0), (2, 2), (2, 4), (3, 3)] {
            for (seen, entered) in [(0, 0), (2, 2), (3, 2), (4, 4)] {
                for asked in [&[][..], std::slice::from_ref(&own)] {
                    check(&View {
                        me: ME,
                        peer: PEER,
                        link,
                        epoch,
                        promised,
                        seen,
                        entered,
                        asked,
                    });
                }
            }
        }
    }
}

#[test]
fn a_campaign_never_goes_beyond_what_the_register_and_its_own_word_allow() {
    let mut swaps = 0;
    views(|view| {
        for says in registers() {
            for origin in [Origin::Person, Origin::Automatic, Origin::Resume, Origin::Settle] {
                for bits in 0..16 {
                    let bid = Bid {
                        origin,
                        word: bits & 1 != 0,
                        bound: bits & 2 != 0,
                        usable: bits & 4 != 0,
                        last: bits & 8 != 0,
                    };
                    let answer = campaign_hears(view, &bid, says.as_ref());
                    let context = format!("{view:?} {bid:?} {says:?}: {answer:?}");
                    let known = view.epoch.max(view.entered);
                    match answer {
                        Answer::Won(won) => {
                            assert!(bid.usable && Some(&won) == says.as_ref(), "{context}");
                            assert!(view.asked.contains(&won) && won.primary == ME, "ONCE: {context}");
                            assert!(won.epoch > view.epoch, "ONCE: {context}");
                        }
                        Answer::Swap { want, expected, next } => {
                            swaps += 1;
                            assert!(bid.usable && expected == says, "{context}");
                            assert!(next.primary == ME && next.in_sync.contains(ME), "{context}");
                            let above = [view.epoch, view.promised, view.seen];
                            assert!(
                                above.into_iter().all(|epoch| next.epoch > epoch),
                                "FENCE: {context}"
                            );
                            assert!(
                                says.as_ref().is_none_or(|s| next.epoch > s.epoch),
                                "FENCE: {context}"
                            );
                            match want {
                                Want::Create => {
                                    assert!(says.is_none() && known == 0, "CREATE: {context}");
                                    assert!(
                                        origin == Origin::Person && bid.last || bid.word,
                                        "CREATE: {context}"
                                    );
                                }
                                Want::Reseed => assert!(bid.word, "RESEED: {context}"),
                                _ => {
                                    let says = says.as_ref().expect("there is a record");
                                    assert!(says.in_sync.contains(ME), "PROMOTE: {context}");
                                    assert!(says.epoch >= known, "RESEED: {context}");
                                    let rival = says.primary != ME && !bid.word;
                                    assert!(!rival || !bid.bound, "LEASE: {context}");
                                    assert!(
                                        matches!(origin, Origin::Person | Origin::Automatic)
                                            || says.primary == ME,
                                        "RESUME: {context}"
                                    );
                                }
                            }
                            if next.in_sync.contains(PEER) {
                                assert!(bid.word && view.link == Link::Equal, "HANDOVER: {context}");
                            }
                        }
                        Answer::Bound => assert!(bid.bound && !bid.word, "{context}"),
                        Answer::Refused(_) => {}
                    }
                }
            }
        }
    });
    assert!(swaps > 1_000, "only {swaps}: the universe is too small");
}

/// `bits`: of the flags of a reign.
fn reigns(bits: std::ops::Range<u32>, mut check: impl FnMut(&View, &Reign)) {
    let serving = [configuration(2, ME, &[ME]), configuration(2, ME, &[ME, PEER])];
    let held = [
        None,
        Some(configuration(1, PEER, &[PEER])),
        Some(serving[0].clone()),
        Some(configuration(3, ME, &[ME, PEER])),
    ];
    views(|view| {
        for serving in &serving {
            for held in &held {
                for bits in bits.clone() {
                    let bit = |n: u32| bits >> n & 1 != 0;
                    let reign = Reign {
                        serving,
                        held: held.as_ref(),
                        forced: bit(0),
                        joint: bit(1),
                        read: bit(2),
                        lease: bit(3),
                        lost: bit(4),
                        adopted: bit(5),
                        unresolved: bit(6),
                        parting: bit(7),
                        reseeded: bit(8),
                    };
                    check(view, &reign);
                }
            }
        }
    });
}

#[test]
fn a_primary_asks_for_no_more_than_it_may() {
    reigns(0..512, |view, reign| {
        let needs = needs_peer(reign.serving, reign.joint, PEER);
        let connected = matches!(view.link, Link::Catching | Link::Equal) && !reign.parting;
        let want = primary_wants(view, reign);
        let context = || format!("{view:?} {reign:?}: {want:?}");
        if needs && !connected && !reign.lost && !reign.forced {
            let unadopted = reign.reseeded && !reign.adopted;
            assert_eq!(want == Some(Want::Shrink), !unadopted, "SHRINK: {}", context());
            assert!(want.is_some(), "{}", context());
        }
        let Some(want) = want.filter(|want| *want != Want::Look) else {
            return;
        };
        let AskRequest::Swap { expected, next } = primary_swap(view, reign, want) else {
            panic!("a want without a swap: {}", context());
        };
        assert_eq!(next.primary, ME);
        assert!(
            next.in_sync.contains(ME) && next.epoch > reign.serving.epoch,
            "{}",
            context()
        );
        assert!(next.epoch > view.seen.max(view.promised), "FENCE: {}", context());
        assert!(
            expected.is_none_or(|held| next.epoch > held.epoch),
            "FENCE: {}",
            context()
        );
        if next.in_sync.contains(PEER) {
            assert!(view.link == Link::Equal, "GROW: {}", context());
        }
        match want {
            Want::Shrink => assert!(needs && !connected && next.in_sync.len() == 1, "{}", context()),
            Want::Grow => assert!(
                reign.lease && connected && next.in_sync.len() == 2,
                "{}",
                context()
            ),
            Want::Reseed => assert!(reign.lost && reign.adopted && connected, "RESEED: {}", context()),
            Want::Renew => assert!(
                reign.forced || view.seen > reign.serving.epoch || reign.held.is_some(),
                "{}",
                context()
            ),
            other => panic!("{other:?} is not a Primary's to want"),
        }
    });
}

#[test]
fn a_primary_enters_only_what_it_asked_for_and_gives_way_to_every_other() {
    reigns(0..2, |view, reign| {
        for says in registers() {
            let heard = primary_hears(view, reign, says.as_ref());
            let context = || format!("{view:?} {reign:?} {says:?}: {heard:?}");
            let newer = says.as_ref().is_some_and(|says| says.epoch > reign.serving.epoch);
            let other = says.as_ref().is_some_and(|says| says.primary != ME);
            match heard {
                Heard::Enter => {
                    assert!(newer && !other, "{}", context());
                    assert!(
                        view.asked.contains(says.as_ref().expect("it says one")),
                        "ONCE: {}",
                        context()
                    );
                }
                Heard::Superseded => assert!(other, "{}", context()),
                Heard::Lost => assert!(!newer && !reign.forced, "{}", context()),
                Heard::Held => assert!(!(other && newer), "{}", context()),
            }
        }
    });
}

#[test]
fn a_write_completes_when_every_node_in_sync_has_it_and_nobody_promised_more() {
    for (needs, fenced, lacking) in BOOL
        .into_iter()
        .flat_map(|a| BOOL.into_iter().flat_map(move |b| BOOL.map(|c| (a, b, c))))
    {
        let expected = match (fenced, needs, lacking) {
            (true, ..) | (false, true, true) => Ack::Wait,
            (false, true, false) => Ack::Now,
            (false, false, _) => Ack::Alone,
        };
        assert_eq!(acknowledge(needs, fenced, lacking), expected);
    }
}

#[test]
fn a_lease_ends_before_the_word_that_it_rests_on_with_both_clocks_wrong() {
    for drift_ppm in [0, 1, 200, 1_000, 100_000] {
        for lease_ns in [1, 300_000_000, 2_000_000_000, 3_600_000_000_000] {
            let (sent, received) = (1_000, 1_000);
            let lease = u128::from(lease_end(sent, lease_ns, drift_ppm) - sent);
            // The Primary's clock is slow, the follower's fast: in true time it must still end first.
            let drift = u128::from(drift_ppm);
            let primary_true = lease * 1_000_000 * (1_000_000 + drift);
            let follower_true = u128::from(lease_ns) * 1_000_000 * (1_000_000 - drift);
            assert!(primary_true <= follower_true, "{drift_ppm} {lease_ns}");
            assert!(received >= sent);
        }
    }
}
