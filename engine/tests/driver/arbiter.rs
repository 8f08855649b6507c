//! An arbiter's register beside engines, driven as the control plane does: woken by the event descriptor, asked what to
//! ask, told what the register holds.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::Duration;

use _engine::core::Configuration;
use _engine::io::engine::Engine;
use serde_json::Value;

pub type Register = Mutex<Option<Configuration>>;

fn readable(fd: RawFd, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid descriptor.
    unsafe { libc::poll(&mut poll, 1, timeout.as_millis() as i32) > 0 }
}

/// What a control plane does with the asks of one engine, until `end`. `sees`: the events of each turn, and whether it
/// asks for a swap that was not asked for before.
pub fn serve(engine: &Engine, register: &Register, end: &AtomicBool, mut sees: impl FnMut(&str, bool)) {
    let mut served = 0;
    while !end.load(Ordering::Relaxed) {
        // As in the control plane: the descriptor says that something may have changed, events are taken, asks looked at.
        readable(engine.event_fd(), Duration::from_millis(20));
        let events = engine.events();
        let asks: Value = serde_json::from_str(&engine.asks()).unwrap();
        let new = asks["ask"].as_u64().filter(|ask| *ask != served);
        let swap = new.is_some() && asks["do"] == "swap";
        sees(&events, swap);
        let Some(ask) = new else { continue };
        served = ask;
        let mut held = register.lock().unwrap();
        if swap {
            let expected: Option<Configuration> = serde_json::from_value(asks["expected"].clone()).unwrap();
            if *held == expected {
                *held = Some(serde_json::from_value(asks["next"].clone()).unwrap());
            }
        }
        let told = serde_json::to_string(&*held).unwrap();
        drop(held);
        engine.arbiter_says(ask, &told).unwrap();
    }
}

/// Ends them also when the test has failed.
pub struct Ends<'a>(pub &'a [AtomicBool; 2]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|end| end.store(true, Ordering::Relaxed));
    }
}
