//! Contender (b): compio, a task a connection direction and a task a local write.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use compio::buf::{BufResult, IoBuf, IoBufMut, SetLen};
use compio::fs::{File, OpenOptions};
use compio::io::{AsyncRead, AsyncWriteAt, AsyncWriteExt};
use compio::net::{TcpStream, UnixStream};
use compio::runtime::{self, Runtime};

use crate::proto::{Node, Page, Rx, BLOCK};

struct Block(Arc<Page>);

impl IoBuf for Block {
    fn as_init(&self) -> &[u8] {
        &self.0 .0
    }
}

/// A whole receive buffer lent to the runtime for one read into its free part.
struct Lent {
    rx: Rx,
    got: usize,
}

impl IoBuf for Lent {
    fn as_init(&self) -> &[u8] {
        &[]
    }
}

impl SetLen for Lent {
    unsafe fn set_len(&mut self, len: usize) {
        self.got = len;
    }
}

impl IoBufMut for Lent {
    fn as_uninit(&mut self) -> &mut [std::mem::MaybeUninit<u8>] {
        let space = self.rx.space();
        // SAFETY: initialised bytes are valid as possibly uninitialised ones, and the runtime only stores
        // what a read returned.
        unsafe { std::slice::from_raw_parts_mut(space.as_mut_ptr().cast(), space.len()) }
    }
}

/// What the tasks of one node share.
struct Shared {
    node: RefCell<Node>,
    up_writer: RefCell<Option<Waker>>,
    down_writer: RefCell<Option<Waker>>,
    file: File,
    /// Set to write blocks with `pwrite` and leave only the sockets to the runtime.
    inline: Option<std::fs::File>,
}

impl Shared {
    fn part_done(&self, slot: usize) {
        self.node.borrow_mut().part_done(slot);
        wake(&self.up_writer);
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow_mut().take() {
        waker.wake();
    }
}

/// Waits until `take` returns bytes to send.
async fn due(waker: &RefCell<Option<Waker>>, mut take: impl FnMut() -> Vec<u8>) -> Vec<u8> {
    poll_fn(|context| {
        let bytes = take();
        if bytes.is_empty() {
            *waker.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(bytes)
    })
    .await
}

async fn receive(mut from: impl AsyncRead, rx: Rx) -> io::Result<(usize, Rx)> {
    let BufResult(result, mut lent) = from.read(Lent { rx, got: 0 }).await;
    let count = result?;
    lent.rx.received(count);
    Ok((count, lent.rx))
}

/// Serves `up` until it closes; with `down`, as a primary replicating to it.
pub fn serve(up: OwnedFd, down: Option<OwnedFd>, path: &Path, flags: i32, inline: bool) -> io::Result<()> {
    Runtime::new()?.block_on(async {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)
            .await?;
        let inline = inline
            .then(|| std::fs::OpenOptions::new().write(true).open(path))
            .transpose()?;
        let shared = Rc::new(Shared {
            node: RefCell::new(Node::new(down.is_some())),
            up_writer: RefCell::new(None),
            down_writer: RefCell::new(None),
            file,
            inline,
        });
        if let Some(down) = down {
            let down = TcpStream::from_std(down.into())?;
            runtime::spawn(read_acks(down.clone(), Rc::clone(&shared))).detach();
            runtime::spawn(forward(down, Rc::clone(&shared))).detach();
        }
        // A secondary's upstream is TCP, but either type only reads and writes its descriptor.
        let up = UnixStream::from_std(up.into())?;
        runtime::spawn(reply(up.clone(), Rc::clone(&shared))).detach();
        let mut rx = Rx::new();
        loop {
            let count;
            (count, rx) = receive(&up, rx).await?;
            if count == 0 {
                return Ok(());
            }
            let mut accepted = Vec::new();
            let used = shared.node.borrow_mut().accept(rx.bytes(), &mut accepted)?;
            rx.consume(used);
            wake(&shared.down_writer);
            for slot in accepted {
                write(&shared, slot)?;
            }
        }
    })
}

fn write(shared: &Rc<Shared>, slot: usize) -> io::Result<()> {
    let (offset, page) = shared.node.borrow().local_write(slot);
    if let Some(file) = &shared.inline {
        file.write_all_at(&page.0, offset)?;
        drop(page);
        shared.part_done(slot);
        return Ok(());
    }
    let shared = Rc::clone(shared);
    runtime::spawn(async move {
        let BufResult(result, block) = (&shared.file).write_at(Block(page), offset).await;
        drop(block);
        assert_eq!(result.expect("the benchmark's own file is writable"), BLOCK);
        shared.part_done(slot);
    })
    .detach();
    Ok(())
}

async fn read_acks(down: TcpStream, shared: Rc<Shared>) {
    let mut rx = Rx::new();
    loop {
        let count;
        (count, rx) = receive(&down, rx).await.expect("the peer outlives the primary");
        if count == 0 {
            return;
        }
        let used = shared
            .node
            .borrow_mut()
            .acks(rx.bytes())
            .expect("the peer acknowledges what it was sent");
        rx.consume(used);
        wake(&shared.up_writer);
    }
}

async fn forward(mut down: TcpStream, shared: Rc<Shared>) {
    loop {
        // Owned buffers want one contiguous copy; at 4 KiB it costs less than a system call.
        let frames = || {
            let node = shared.node.borrow();
            node.forward_slices()
                .iter()
                .map(|slice| &slice[..])
                .collect::<Vec<_>>()
                .concat()
        };
        let BufResult(result, bytes) = down.write_all(due(&shared.down_writer, frames).await).await;
        result.expect("the peer outlives the primary");
        shared.node.borrow_mut().forwarded(bytes.len());
        wake(&shared.up_writer);
    }
}

async fn reply(mut up: UnixStream, shared: Rc<Shared>) {
    loop {
        let replies = || std::mem::take(&mut shared.node.borrow_mut().replies);
        let BufResult(result, _) = up.write_all(due(&shared.up_writer, replies).await).await;
        if result.is_err() {
            return;
        }
    }
}
