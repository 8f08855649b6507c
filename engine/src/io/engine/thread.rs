//! The life of an engine's thread: a panic in it ends this resource alone.

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::core::{Notice, Severity};
use crate::io::inbox::Inbox;
use crate::io::reactor::Reactor;
use crate::io::shared::Shared;

/// What the kernel shows of a thread's name: 15 bytes.
pub(super) fn thread_name(resource: &str) -> String {
    format!("bp-{resource}")
        .chars()
        .filter(|c| *c != '\0')
        .take(15)
        .collect()
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers what a panic said and where, for the thread that catches it.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = (info.payload().downcast_ref::<&str>().copied())
                .or_else(|| info.payload().downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            let place = info
                .location()
                .map(|at| format!(" at {}:{}", at.file(), at.line()))
                .unwrap_or_default();
            // No room left to remember it: the message is lost, the panic is not.
            let _ = PANIC.try_with(|panic| *panic.borrow_mut() = Some(format!("{text}{place}")));
            earlier(info);
        }));
    });
}

/// The thread's life: a panic ends this resource, with an error for its clients, and nothing else.
pub(super) fn run(mut reactor: Reactor, shared: &Shared, inbox: &Inbox) {
    watch_panics();
    let failure = match catch_unwind(AssertUnwindSafe(|| reactor.run())) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("the engine cannot go on: {error}")),
        Err(_) => {
            let text = PANIC.with(|panic| panic.borrow_mut().take());
            Some(format!(
                "the engine panicked: {}",
                text.unwrap_or_else(|| "no message".into())
            ))
        }
    };
    if let Some(failure) = &failure {
        // What is left of the reactor may be in any state: a second panic must not get out either.
        let _ = catch_unwind(AssertUnwindSafe(|| reactor.abandon()));
        shared.record(Notice {
            severity: Severity::Error,
            name: "engine.failed",
            text: failure.clone(),
        });
        // Letting go of a disk that hangs may take for ever: nobody is kept waiting until then.
        shared.end("failed", Some(failure));
        inbox.close();
    }
    let closed = catch_unwind(AssertUnwindSafe(|| drop(reactor)));
    let state = if failure.is_none() && closed.is_ok() {
        "stopped"
    } else {
        "failed"
    };
    shared.end(state, failure.as_deref());
    inbox.close();
}
