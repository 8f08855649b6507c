//! A panic of the core is a finding like any other: kept as text instead of printed.

use std::cell::RefCell;

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From here on panics are silent, and [`last`] tells of them.
pub fn catch_all() {
    std::panic::set_hook(Box::new(|info| {
        LAST.with(|last| *last.borrow_mut() = info.to_string().replace('\n', ": "));
    }));
}

/// The text of this thread's last panic.
pub fn last() -> String {
    LAST.with(|last| last.borrow().clone())
}
