//! Planted faults: the test of the simulator.
//!
//! Each breaks one rule that the data's safety rests on, in one place. `./scripts/sim --mutants` plants them one at a
//! time and wants each to be found. Without the feature `faults`, which no build for users has, [`planted`] is
//! `false` at compile time and costs nothing.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Protocol C acknowledges a write that the peer has not confirmed.
    AckBeforePeer,
    /// A mark goes when its data are sent, not when they are confirmed.
    MarkClearedEarly,
    /// A resync ends, and what is still marked is forgotten.
    MarksLeftAtResyncEnd,
    /// A flush is answered without the peer's.
    FlushNotForwarded,
    /// A target takes its source's generation before the data under it are stable.
    LabelBeforeFlush,
    /// What a lost peer had confirmed and not flushed is not compared again.
    UnflushedForgotten,
    /// A write without the peer is not marked for it.
    UnmirroredUnmarked,
    /// Both nodes take themselves for the source.
    VerdictNotMirrored,
    /// No write-intent log at all.
    IntentSkipped,
    /// A write starts before its extent is durably in the log.
    IntentNotAwaited,
    /// Extents leave the log while a peer has still to be compared there.
    IntentClearedEarly,
    /// After a crash, what the log says is not compared.
    SuspectsIgnored,
    /// A write without the peer opens no new generation.
    GenerationNotOpened,
    /// A replicated write is confirmed before the disk has it.
    ConfirmedBeforeDisk,
    /// A replicated write that failed is confirmed.
    FailedWriteConfirmed,
    /// Writes that overlap in flight reach the disk in any order.
    OverlapsUnordered,
    /// The superblock is always written to the same copy.
    SuperblockCopyFixed,
    /// A target does not tell its source what it has marked itself.
    TargetMarksUnsent,
    /// A split brain's victim goes back to the ancestor before its bundle is saved.
    RewindBeforeBundle,
    /// A bundle that could not be saved counts as one.
    BundleFailureIgnored,
    /// The survivor's marks do not get into the bundle.
    BundleLacksSurvivorMarks,
    /// A split brain's end may make a Primary its victim.
    PrimaryDiscarded,
    /// What was read ahead is still shown when it was written since.
    WarmUpStale,
    /// A connect that comes while a disconnect drains is answered and forgotten.
    ConnectForgotten,
    /// The victim's history does not say that it gave way.
    ResolutionUnrecorded,
    /// A Primary that lost its peer acknowledges without the arbiter's word (ACK, SHRINK).
    ShrinkSkipped,
    /// A Primary goes on in its epoch though a higher one was promised (FENCE).
    FenceIgnored,
    /// A node asks to be Primary before its promise is durable (FENCE).
    PromiseNotDurable,
    /// A node that is not in sync becomes Primary (PROMOTE).
    StalePromoted,
    /// A follower asks to be Primary before its word not to has run out (LEASE).
    WordBroken,
    /// A Primary reads though its lease has run out (LEASE).
    LeaseIgnored,
    /// The register says that the peer is in sync before its confirmation counts (GROW).
    GrownBeforeJoint,
}

#[cfg(feature = "faults")]
mod switch {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Breaks one rule on this thread, or mends it.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    pub fn planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// Plants on this thread what `BLOCKPAIR_PLANT` names, if anything: for whole daemons, as the race `intent_log` runs
    /// them.
    ///
    /// # Panics
    /// When there is no fault of that name.
    pub fn plant_from_environment() {
        let Ok(name) = std::env::var("BLOCKPAIR_PLANT") else {
            return;
        };
        let known = Fault::ALL.into_iter().chain(Fault::ARBITRATION);
        let fault = known.into_iter().find(|fault| format!("{fault:?}") == name);
        plant(Some(
            fault.unwrap_or_else(|| panic!("BLOCKPAIR_PLANT={name}: no such fault")),
        ));
    }

    impl Fault {
        pub const ALL: [Fault; 25] = [
            Fault::AckBeforePeer,
            Fault::MarkClearedEarly,
            Fault::MarksLeftAtResyncEnd,
            Fault::FlushNotForwarded,
            Fault::LabelBeforeFlush,
            Fault::UnflushedForgotten,
            Fault::UnmirroredUnmarked,
            Fault::VerdictNotMirrored,
            Fault::IntentSkipped,
            Fault::IntentNotAwaited,
            Fault::IntentClearedEarly,
            Fault::SuspectsIgnored,
            Fault::GenerationNotOpened,
            Fault::ConfirmedBeforeDisk,
            Fault::FailedWriteConfirmed,
            Fault::OverlapsUnordered,
            Fault::SuperblockCopyFixed,
            Fault::TargetMarksUnsent,
            Fault::RewindBeforeBundle,
            Fault::BundleFailureIgnored,
            Fault::BundleLacksSurvivorMarks,
            Fault::PrimaryDiscarded,
            Fault::ResolutionUnrecorded,
            Fault::ConnectForgotten,
            Fault::WarmUpStale,
        ];

        /// Of rules that are in use only where an arbiter is.
        pub const ARBITRATION: [Fault; 7] = [
            Fault::ShrinkSkipped,
            Fault::FenceIgnored,
            Fault::PromiseNotDurable,
            Fault::StalePromoted,
            Fault::WordBroken,
            Fault::LeaseIgnored,
            Fault::GrownBeforeJoint,
        ];
    }
}

#[cfg(feature = "faults")]
pub(super) use switch::planted;
#[cfg(feature = "faults")]
pub use switch::{plant, plant_from_environment};

/// Whether this rule is broken: never.
#[cfg(not(feature = "faults"))]
pub(super) const fn planted(_: Fault) -> bool {
    false
}
