//! A session: one ordered stream of frames each way between two nodes, over one of several paths at a time.
//!
//! Sans I/O: connections, frames and time come in, [`Output`]s go out. It is its own module, and no part of
//! [`wire`](crate::wire), because it remembers (what is sent and not yet confirmed, which path is in use, who was
//! heard when), while the wire only tells how a frame looks; and no part of [`core`](crate::core), because the core
//! must see one connection, whatever carries it.
//!
//! * The node that dialled the session's first connection *leads*: it alone dials further paths and chooses which of
//!   them is *active*. Frames in either direction travel on the active path only; the others *stand by*.
//! * Frames carry no number of the session's: the n-th frame that a side sends is number n, because a path is a TCP
//!   stream, and only one is listened to. What makes that safe is the *turn*: to change the path, the leader takes a
//!   new turn and says [`Control::Resume`] with the number of the last frame that it has received; from then on it
//!   ignores frames from anywhere until the follower's `Resume` of the same turn comes, on the same path. Each side
//!   then sends again, on that path, whatever the other has not received. A frame that comes late on another path
//!   is not listened to.
//! * [`Control::Acknowledge`] says cumulatively what was received, and that the path lives. What is not acknowledged
//!   is kept, with its payload by reference.
//! * A path that is closed is down. A silent one is down only while another is heard: when all are silent, it may be
//!   the node that is, and patience with that is the core's. The last path's end is the session's.

mod log;
mod machine;
#[cfg(test)]
mod tests;
mod types;

pub use machine::Session;
pub use types::{Change, Control, Output, PathIndex, PathReport, PathState, Violation};
