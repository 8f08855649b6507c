//! Durable metadata writes, one after the other.

use std::cell::Cell;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::disk::{lives_in_memory, Device};
use super::inbox::{Inbox, Input};
use super::metadata::MetadataFile;
use crate::core::{Errno, MetaWrite, Token};

type Job = (Token, Vec<MetaWrite>, bool);

/// Keeps what builds on a failed write from being written.
#[derive(Default)]
struct Order {
    failed: bool,
}

impl Order {
    fn run(&mut self, after_failure: bool, commit: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        if self.failed && !after_failure {
            return Err(Errno::EIO);
        }
        let result = commit();
        self.failed |= result.is_err();
        result
    }
}

/// Writes in place where the metadata lives in memory, on a thread of its own where a disk has to be waited for.
pub struct MetaWriter {
    file: Arc<MetadataFile>,
    in_place: Cell<Order>,
    thread: Option<(Sender<Job>, JoinHandle<()>)>,
}

impl MetaWriter {
    pub fn new(file: MetadataFile, device: Arc<Device>, inbox: Arc<Inbox>) -> io::Result<MetaWriter> {
        let file = Arc::new(file);
        let mut thread = None;
        if !lives_in_memory(&file.holder().file)? {
            let (sender, jobs) = channel::<Job>();
            let file = file.clone();
            let handle = std::thread::Builder::new()
                .name("bp-meta".into())
                .spawn(move || {
                    let mut marked = false;
                    let mut order = Order::default();
                    for (token, writes, after_failure) in jobs {
                        device.mark_thread(&mut marked);
                        // A panic fails its write; a completion that never comes would hang the resource.
                        let result = order.run(after_failure, || {
                            let result = catch_unwind(AssertUnwindSafe(|| commit(&file, &writes)));
                            result.unwrap_or(Err(Errno::EIO))
                        });
                        drop(writes);
                        inbox.push(Input::MetaDone { token, result });
                    }
                })?;
            thread = Some((sender, handle));
        }
        let in_place = Cell::default();
        Ok(MetaWriter {
            file,
            in_place,
            thread,
        })
    }

    /// Writes; the result of a write in place comes back at once, any other through the inbox.
    pub fn submit(
        &self,
        token: Token,
        writes: Vec<MetaWrite>,
        after_failure: bool,
    ) -> Option<Result<(), Errno>> {
        match &self.thread {
            None => {
                let mut order = self.in_place.take();
                let result = order.run(after_failure, || commit(&self.file, &writes));
                self.in_place.set(order);
                Some(result)
            }
            Some((sender, _)) => match sender.send((token, writes, after_failure)) {
                Ok(()) => None,
                // The thread is gone, which only a panic does: nothing can be made durable any more.
                Err(_) => Some(Err(Errno::EIO)),
            },
        }
    }

    pub fn file(&self) -> &MetadataFile {
        &self.file
    }
}

impl Drop for MetaWriter {
    fn drop(&mut self) {
        if let Some((sender, handle)) = self.thread.take() {
            drop(sender);
            // Its panic was reported as failed writes.
            let _ = handle.join();
        }
    }
}

fn commit(file: &MetadataFile, writes: &[MetaWrite]) -> Result<(), Errno> {
    file.commit(writes)
        .map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_behind_a_failed_write_but_what_knows_of_it() {
        let mut order = Order::default();
        assert!(order.run(false, || Ok(())).is_ok());
        assert_eq!(order.run(false, || Err(Errno::ENOSPC)), Err(Errno::ENOSPC));
        assert_eq!(order.run(false, || panic!("it is not tried")), Err(Errno::EIO));
        assert!(order.run(true, || Ok(())).is_ok());
        assert_eq!(order.run(false, || panic!("it is not tried")), Err(Errno::EIO));
    }
}
