//! LEASE: no read is answered that another Primary may have made stale.

use super::*;

#[test]
fn reads_wait_when_the_lease_has_run_out_and_go_on_with_the_followers_word() {
    let mut world = pair(601);
    write(&mut world, A, 1, 7);
    without_arbiter(&mut world, Reach::Cut);
    world.set_cable(Cable::Silent);
    world.run(SECOND);
    let early = start_read(&mut world, A, 1);
    world.run(100 * MS);
    assert!(reply(&world, early).is_some(), "the lease holds");
    assert_eq!(arbitration(&world, A).suspended, Some("writes"));
    world.run(2 * SECOND);
    let late = start_read(&mut world, A, 1);
    world.run(10 * SECOND);
    assert!(reply(&world, late).is_none());
    assert_eq!(arbitration(&world, A).suspended, Some("all"));
    world.set_cable(Cable::Fine);
    assert!(replied(&mut world, late).is_ok());
}

#[test]
fn a_primary_alone_needs_no_lease() {
    let mut world = pair(602);
    world.crash(B, true);
    write(&mut world, A, 1, 7);
    world.run(60 * SECOND);
    let read = start_read(&mut world, A, 1);
    assert!(replied(&mut world, read).is_ok());
    assert!(arbitration(&world, A).lease_seconds.is_none());
}

#[test]
fn a_followers_word_outlives_the_connection_and_a_restart() {
    for restarts in [false, true] {
        let mut world = pair(603);
        world.nodes[A].reach = Reach::Cut;
        world.run(SECOND);
        cut(&mut world);
        if restarts {
            world.crash(B, false);
            world.start(B, true);
        }
        let end = arbitration(&world, A).lease_seconds.expect("a lease") * 1e9;
        let end = world.now + end as u64;
        world.run_until("b is Primary", |w| is_primary(w, B));
        assert!(world.now >= end, "before the other's lease had run out");
    }
}

#[test]
fn the_lease_is_shorter_than_the_word_by_the_clocks_drift() {
    let times = ArbitrationConfig {
        drift_ppm: 100_000,
        ..TIMES
    };
    let mut world = pair_with(604, Protocol::C, times);
    world.run(SECOND);
    let lease = arbitration(&world, A).lease_seconds.expect("a lease");
    let word = arbitration(&world, B).promise_seconds.expect("a word");
    assert!(lease < word * 0.85, "{lease} {word}");
}
