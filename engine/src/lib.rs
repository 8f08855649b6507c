//! The data path of blockpair.
