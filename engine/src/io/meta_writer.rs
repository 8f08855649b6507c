//! Durable metadata writes, one after the other.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::disk::{lives_in_memory, Device};
use super::inbox::{Inbox, Input};
use super::metadata::MetadataFile;
use crate::core::{Errno, MetaWrite, Token};

type Job = (Token, Vec<MetaWrite>);

/// Writes in place where the metadata lives in memory, on a thread of its own where a disk has to be waited for.
pub struct MetaWriter {
    file: Arc<MetadataFile>,
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
                    for (token, writes) in jobs {
                        device.mark_thread(&mut marked);
                        // A panic fails its write; a completion that never comes would hang the resource.
                        let result = catch_unwind(AssertUnwindSafe(|| commit(&file, &writes)));
                        let result = result.unwrap_or(Err(Errno(libc::EIO)));
                        drop(writes);
                        inbox.push(Input::MetaDone { token, result });
                    }
                })?;
            thread = Some((sender, handle));
        }
        Ok(MetaWriter { file, thread })
    }

    /// Writes; the result of a write in place comes back at once, any other through the inbox.
    pub fn submit(&self, token: Token, writes: Vec<MetaWrite>) -> Option<Result<(), Errno>> {
        match &self.thread {
            None => Some(commit(&self.file, &writes)),
            Some((sender, _)) => match sender.send((token, writes)) {
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
