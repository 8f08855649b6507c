//! The loser's bundle: the blocks that a split brain's victim is about to lose, in one file.
//!
//! The bytes are described in `docs/reference/bundles.md`. Everything here is over `Read`, `Write` and
//! `Seek`; files, devices and their durability are [`io::bundle`](crate::io)'s.
//!
//! * [`write()`]: blocks in, a file out, in one pass and bounded memory.
//! * [`Bundle`]: opens such a file, and checks all it is told by it before it believes it.

mod error;
mod format;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use error::BundleError;
pub use format::{Facts, VERSION};
pub use reader::{Bundle, Chunk};
pub use writer::write;
