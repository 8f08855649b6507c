//! The data path of blockpair.

pub mod front;
