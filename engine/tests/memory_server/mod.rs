//! A small blocking NBD server over a disk in memory, for tests that bring real clients.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use _engine::front::nbd::{Event, Export, ExportInfo, Extent, Kind, ReceiveBuffer, Request, Session};

const BLOCK: usize = 4096;
const RECEIVE_BUFFER: usize = 256 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Hole,
    Zeroes,
    Data,
}

impl Block {
    fn extent(self) -> Extent {
        Extent {
            length: BLOCK as u64,
            hole: self == Block::Hole,
            zero: self != Block::Data,
        }
    }
}

/// The disk, and what was asked of it.
pub struct Disk {
    pub bytes: Vec<u8>,
    blocks: Vec<Block>,
    /// How often each kind of request came, by name; those with FUA count as "fua" as well.
    pub counts: HashMap<&'static str, usize>,
    /// How many clients chose the export.
    pub sessions: usize,
    /// What ended a connection other than the client's leave.
    pub violations: Vec<String>,
}

impl Disk {
    fn new(size: usize) -> Disk {
        Disk {
            bytes: vec![0; size],
            blocks: vec![Block::Hole; size.div_ceil(BLOCK)],
            counts: HashMap::new(),
            sessions: 0,
            violations: Vec::new(),
        }
    }

    pub fn count(&self, what: &str) -> usize {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Fills a range with zeroes, or with a payload.
    fn change(&mut self, offset: usize, length: usize, payload: Option<&[u8]>, whole: Block) {
        let range = &mut self.bytes[offset..offset + length];
        match payload {
            Some(payload) => range.copy_from_slice(payload),
            None => range.fill(0),
        }
        for block in offset / BLOCK..(offset + length).div_ceil(BLOCK) {
            let covered = offset <= block * BLOCK && (block + 1) * BLOCK <= offset + length;
            if covered || whole == Block::Data {
                self.blocks[block] = whole;
            }
        }
    }

    fn extents(&self, offset: usize) -> Vec<Extent> {
        let mut extents: Vec<_> = self.blocks[offset / BLOCK..]
            .iter()
            .map(|block| block.extent())
            .collect();
        if let Some(first) = extents.first_mut() {
            first.length -= (offset % BLOCK) as u64;
        }
        extents
    }
}

/// The server; dropping it ends it, once its clients are gone.
pub struct Server {
    pub socket: PathBuf,
    disk: Arc<Mutex<Disk>>,
    ending: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `info` on a socket in `folder`.
    pub fn start(folder: &Path, info: ExportInfo) -> Server {
        let socket = folder.join("nbd.sock");
        let listener = UnixListener::bind(&socket).expect("bind the socket");
        let disk = Arc::new(Mutex::new(Disk::new(usize::try_from(info.size_bytes).unwrap())));
        let export = Arc::new(Export::new(info).expect("an export that can be served"));
        let ending = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&disk), Arc::clone(&ending));
        let acceptor = std::thread::spawn(move || {
            let mut clients = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let (export, disk) = (Arc::clone(&export), Arc::clone(&shared));
                let stream = stream.expect("accept");
                clients.push(std::thread::spawn(move || serve(stream, export, &disk)));
            }
            clients
                .into_iter()
                .for_each(|client| client.join().expect("a client's thread"));
        });
        Server {
            socket,
            disk,
            ending,
            acceptor: Some(acceptor),
        }
    }

    /// The address for clients that ask for export `name`.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no server thread panicked")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        // The acceptor waits in accept(): a last connection wakes it.
        // A test that has failed already does not wait: a client of its own may still be connected.
        let woken = UnixStream::connect(&self.socket);
        if !std::thread::panicking() {
            woken.expect("wake the acceptor");
            self.acceptor
                .take()
                .map(JoinHandle::join)
                .expect("ended once")
                .expect("no server thread panicked");
        }
    }
}

fn serve(mut stream: UnixStream, export: Arc<Export>, disk: &Mutex<Disk>) {
    let mut session = Session::handshake(export);
    let mut buffer = ReceiveBuffer::new(RECEIVE_BUFFER);
    let mut out = Vec::new();
    session.start(&mut out);
    loop {
        let step = match session.next(buffer.data(), &mut out) {
            Ok(step) => step,
            Err(violation) => {
                disk.lock().unwrap().violations.push(violation.to_string());
                return;
            }
        };
        buffer.consume(step.consumed);
        match step.event {
            Some(Event::Ready) => disk.lock().unwrap().sessions += 1,
            Some(Event::Request(request)) => {
                let mut payload = Vec::new();
                if request.kind == Kind::Write {
                    payload = vec![0; request.length as usize];
                    let there = buffer.take(&mut payload);
                    if stream.read_exact(&mut payload[there..]).is_err() {
                        return;
                    }
                }
                execute(&session, &request, &payload, &mut disk.lock().unwrap(), &mut out);
            }
            Some(Event::Disconnect) => {
                let _ = stream.write_all(&out); // the client may be gone already
                return;
            }
            None => {}
        }
        if step.needs_more() || out.len() > 1 << 20 {
            if stream.write_all(&out).is_err() {
                return;
            }
            out.clear();
        }
        if step.needs_more() {
            match stream.read(buffer.space()) {
                Ok(0) | Err(_) => return,
                Ok(count) => buffer.filled(count),
            }
        }
    }
}

fn execute(session: &Session, request: &Request, payload: &[u8], disk: &mut Disk, out: &mut Vec<u8>) {
    let replies = session.replies();
    let (offset, length) = (request.offset as usize, request.length as usize);
    let name = match request.kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::Flush => "flush",
        Kind::Trim => "trim",
        Kind::WriteZeroes { no_hole: true, .. } => "write zeroes, no hole",
        Kind::WriteZeroes { .. } => "write zeroes",
        Kind::Cache => "cache",
        Kind::BlockStatus { .. } => "block status",
    };
    *disk.counts.entry(name).or_default() += 1;
    *disk.counts.entry("fua").or_default() += usize::from(request.fua);
    match request.kind {
        Kind::Read => {
            replies.read(out, request);
            out.extend_from_slice(&disk.bytes[offset..offset + length]);
            return;
        }
        Kind::BlockStatus { .. } => return replies.block_status(out, request, &disk.extents(offset)),
        Kind::Write => disk.change(offset, length, Some(payload), Block::Data),
        Kind::Trim | Kind::WriteZeroes { no_hole: false, .. } => {
            disk.change(offset, length, None, Block::Hole);
        }
        Kind::WriteZeroes { no_hole: true, .. } => disk.change(offset, length, None, Block::Zeroes),
        Kind::Flush | Kind::Cache => {}
    }
    replies.done(out, request.cookie);
}
