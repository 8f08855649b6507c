//! Block device frontends: how an application reaches a resource.

pub mod nbd;
