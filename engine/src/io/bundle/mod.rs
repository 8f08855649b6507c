//! Bundles on this node's disk: saved before a split brain's victim is overwritten, read to get its data back.
//!
//! * [`save`]: from the backing device to a durable, verified file.
//! * [`Overlay`]: the victim's whole device as it was; [`Export`] serves it, read-only, over NBD.
//! * [`restore()`]: writes the blocks back through a Primary; [`copy_image`] the whole device to a file.
//! * [`Since`]: which blocks changed after that, so that they are never shown as the victim's.

mod client;
mod export;
pub mod files;
mod overlay;
mod restore;
mod save;
mod since;

pub use export::Export;
pub use overlay::{Overlay, Present};
pub use restore::{copy_image, restore};
pub use save::{remove_leftovers, save, Progress, Saved, Saver, SUFFIX};
pub use since::Since;
