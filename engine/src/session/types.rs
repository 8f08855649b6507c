//! What goes in and out of a session.

use thiserror::Error;

use crate::core::Time;

/// A path's place in the leader's order of preference; 0 is preferred.
pub type PathIndex = usize;

/// What the two sides say to each other beside the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The sender has received the frames up to this number; also said to be heard.
    Acknowledge { received: u64 },
    /// From here on, this path is the active one; the sender has received the frames up to this number.
    Resume { turn: u64, received: u64 },
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<F> {
    Control {
        path: PathIndex,
        control: Control,
    },
    /// A frame that was sent before and may not have arrived.
    Again {
        path: PathIndex,
        frame: F,
    },
    /// Close this connection: it is down, and counts as such.
    Close {
        path: PathIndex,
    },
    /// Reach for this path; then [`Session::connected`] or [`Session::down`].
    Dial {
        path: PathIndex,
    },
    /// For people.
    Changed {
        path: PathIndex,
        change: Change,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Up,
    Down {
        why: String,
    },
    /// In use from here on, where another was.
    Active,
}

/// The other side does not keep to the protocol: the session must end.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("it says that it has received {received} frames of {sent}")]
    NeverSent { received: u64, sent: u64 },
    #[error("it says that it has received {received} frames, and said {before} before")]
    WentBack { received: u64, before: u64 },
    #[error("it takes turn {turn}, which is not its to take")]
    Turn { turn: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathState {
    Active,
    Standby,
    Down,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathReport {
    pub state: PathState,
    /// When it came up or went down; none if it never was up.
    pub since: Option<Time>,
    /// Of a path that is down.
    pub why: String,
}
