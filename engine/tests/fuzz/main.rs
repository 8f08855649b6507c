//! The fuzzer of every parser of the engine that reads bytes from outside.
//!
//! Each target has a corpus of small files (`tests/fuzz/corpus/TARGET`), a way to mend the checksums of a mutated
//! input, so that what lies behind them is reached, and a check that says more than "it did not panic". `cargo test`
//! runs each for a bounded count; `scripts/fuzz` runs longer, replays, and writes the corpus (see its --help).

mod bitmap;
mod bundle;
mod memory;
mod mutate;
mod nbd;
mod runner;
mod superblock;
mod wire;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

#[test]
fn wire() {
    runner::run(&wire::TARGET);
}

#[test]
fn nbd() {
    runner::run(&nbd::TARGET);
}

#[test]
fn superblock() {
    runner::run(&superblock::TARGET);
}

#[test]
fn bitmap() {
    runner::run(&bitmap::TARGET);
}

#[test]
fn bundle() {
    runner::run(&bundle::TARGET);
}
