//! Serves a bundle's overlay, read-only, over NBD on a Unix socket, until it is dropped.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::overlay::Overlay;
use crate::front::nbd::{
    ErrorCode, Event, Export as NbdExport, ExportInfo, Kind, ReceiveBuffer, Request, Session,
    MIN_RECEIVE_BUFFER,
};
use crate::io::event::EventFd;

/// Each has a thread and a buffer of the longest request.
const CLIENTS_MAX: usize = 8;
const RECEIVE_BUFFER: usize = if MIN_RECEIVE_BUFFER > 64 << 10 {
    MIN_RECEIVE_BUFFER
} else {
    64 << 10
};

struct Client {
    /// The same socket as its thread's: shut down, it ends the thread.
    stream: UnixStream,
    thread: JoinHandle<()>,
}

pub struct Export {
    path: PathBuf,
    stop: Arc<EventFd>,
    clients: Arc<Mutex<Vec<Client>>>,
    thread: Option<JoinHandle<()>>,
}

impl Export {
    /// Listens on `path`, for root and the socket's group.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(path: &Path, name: &str, overlay: Overlay) -> io::Result<Export> {
        let info = ExportInfo {
            min_block: 1,
            can_trim: false,
            read_only: true,
            description: "a split brain's victim as it was".into(),
            ..ExportInfo::new(name, overlay.size_bytes())
        };
        let export = Arc::new(NbdExport::new(info).map_err(io::Error::other)?);
        let overlay = Arc::new(overlay);
        let listener = UnixListener::bind(path)?;
        let stop = Arc::new(EventFd::new()?);
        let clients = Arc::<Mutex<Vec<Client>>>::default();
        let (stopped, guests) = (stop.clone(), clients.clone());
        let thread = std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).and_then(|()| {
            std::thread::Builder::new()
                .name("bp-export".into())
                .spawn(move || accept(&listener, &stopped, &guests, &export, &overlay))
        });
        let thread = thread.inspect_err(|_| {
            // It serves nobody.
            let _ = std::fs::remove_file(path);
        })?;
        Ok(Export {
            path: path.to_owned(),
            stop,
            clients,
            thread: Some(thread),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.stop.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Nobody is accepted any more.
        let clients = std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner));
        for client in clients {
            let _ = client.stream.shutdown(std::net::Shutdown::Both);
            let _ = client.thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(
    listener: &UnixListener,
    stop: &EventFd,
    clients: &Mutex<Vec<Client>>,
    export: &Arc<NbdExport>,
    overlay: &Arc<Overlay>,
) {
    loop {
        let mut polled = [stop.fd(), listener.as_raw_fd()].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: `polled` is valid for its length.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        if polled[0].revents != 0 {
            return;
        }
        if polled[1].revents == 0 {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| !client.thread.is_finished());
        let Ok(own) = stream.try_clone() else { continue };
        // One too many sees its connection end.
        if clients.len() >= CLIENTS_MAX {
            continue;
        }
        let (export, overlay) = (export.clone(), overlay.clone());
        let thread = std::thread::Builder::new()
            .name("bp-export".into())
            .spawn(move || {
                // How a client leaves is its own affair.
                let _ = serve(&stream, export, &overlay);
                let _ = stream.shutdown(std::net::Shutdown::Both);
            });
        if let Ok(thread) = thread {
            clients.push(Client { stream: own, thread });
        }
    }
}

fn serve(mut stream: &UnixStream, export: Arc<NbdExport>, overlay: &Overlay) -> io::Result<()> {
    let mut session = Session::handshake(export);
    let mut input = ReceiveBuffer::new(RECEIVE_BUFFER);
    let mut out = Vec::new();
    session.start(&mut out);
    loop {
        let step = session.next(input.data(), &mut out);
        stream.write_all(&out)?;
        out.clear();
        let step = step.map_err(io::Error::other)?;
        input.consume(step.consumed);
        match step.event {
            Some(Event::Disconnect) => return Ok(()),
            Some(Event::Request(request)) => answer(stream, &session, &request, overlay)?,
            Some(Event::Ready) => {}
            None if step.consumed == 0 => {
                let count = stream.read(input.space())?;
                if count == 0 {
                    return Ok(());
                }
                input.filled(count);
            }
            None => {}
        }
    }
}

fn answer(
    mut stream: &UnixStream,
    session: &Session,
    request: &Request,
    overlay: &Overlay,
) -> io::Result<()> {
    let mut out = Vec::new();
    let replies = session.replies();
    match request.kind {
        Kind::Read => {
            // The session lets no more through than the export's longest request.
            let mut data = vec![0; request.length as usize];
            match overlay.read(request.offset, &mut data) {
                Ok(()) => {
                    replies.read(&mut out, request);
                    stream.write_all(&out)?;
                    return stream.write_all(&data);
                }
                Err(why) => replies.error(&mut out, request.cookie, ErrorCode::Io, &why),
            }
        }
        Kind::BlockStatus { .. } => replies.block_status(&mut out, request, &[]),
        Kind::Flush | Kind::Cache => replies.done(&mut out, request.cookie),
        // Refused by the session already: the export is read-only.
        _ => replies.error(
            &mut out,
            request.cookie,
            ErrorCode::NotPermitted,
            &"the export is read-only",
        ),
    }
    stream.write_all(&out)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::super::overlay::tests::overlay;
    use super::super::restore::{copy_image, restore};
    use super::*;
    use crate::bundle::Bundle;
    use crate::wire::BlockRun;

    #[test]
    fn the_whole_device_travels_over_nbd() {
        let folder = tempfile::tempdir().unwrap();
        let (overlay, since, _) = overlay(folder.path(), &[BlockRun { first: 3, count: 400 }]);
        let mut wanted = vec![0; overlay.size_bytes() as usize];
        overlay.read(0, &mut wanted).unwrap();
        let socket = folder.path().join("x.sock");
        let export = Export::open(&socket, "r0", overlay).unwrap();
        let image = folder.path().join("image");
        assert_eq!(
            copy_image(&socket, &File::create(&image).unwrap()).unwrap(),
            wanted.len() as u64
        );
        assert!(fs::read(&image).unwrap() == wanted);
        since.mark(900 * 4096, 1);
        let why = copy_image(&socket, &File::create(&image).unwrap()).unwrap_err();
        assert!(why.to_string().contains("at 3145728"), "{why}");
        drop(export);
        assert!(!socket.exists());
    }

    #[test]
    fn it_is_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let (overlay, _, saved) = overlay(folder.path(), &[BlockRun { first: 3, count: 4 }]);
        let socket = folder.path().join("x.sock");
        let _export = Export::open(&socket, "r0", overlay).unwrap();
        let mut bundle = Bundle::open(File::open(saved.path).unwrap()).unwrap();
        let why = restore(&mut bundle, &socket).unwrap_err();
        assert!(why.to_string().contains("not permitted"), "{why}");
    }

    #[test]
    fn its_end_does_not_wait_for_clients() {
        let folder = tempfile::tempdir().unwrap();
        let (overlay, _, _) = overlay(folder.path(), &[]);
        let socket = folder.path().join("x.sock");
        let export = Export::open(&socket, "r0", overlay).unwrap();
        let mut idle = UnixStream::connect(&socket).unwrap();
        let mut greeting = [0; 18];
        idle.read_exact(&mut greeting).unwrap();
        drop(export);
        assert_eq!(idle.read(&mut greeting).unwrap(), 0);
    }
}
