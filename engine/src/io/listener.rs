//! The replication port: one a daemon. Reads the first Hello of each connection and hands the connection to the
//! engine of that resource.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::event::EventFd;
use super::failure::{Failure, FailureKind};
use super::inbox::{Inbox, Input};
use crate::wire::{decode_hello, encode, GoodbyeReason, Hello, HelloStep, Intent, Message};

/// How long a new connection may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not said so yet, at most; the oldest goes when another comes.
const HALF_OPEN_MAX: usize = 64;
/// How long a connection that was refused may take to go.
const LINGER: Duration = Duration::from_millis(500);
/// Reads from one connection in one turn.
const READS_A_TURN: usize = 8;
/// Pause after a failed accept (out of descriptors), so that it is not tried in a loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

struct Route {
    inbox: Arc<Inbox>,
    peers: Vec<String>,
}

#[derive(Default)]
struct Registry(Mutex<HashMap<String, Route>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An engine's entry at the listener; gone when dropped.
pub struct Registration {
    registry: Arc<Registry>,
    resource: String,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.resource);
    }
}

pub struct Listener {
    address: SocketAddr,
    registry: Arc<Registry>,
    closed: Arc<EventFd>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Listens on `host` and `port` (0: any free one).
    ///
    /// # Errors
    /// `in_use` when the port is taken, `invalid` when the address is none of this machine's.
    pub fn open(host: &str, port: u16) -> Result<Listener, Failure> {
        let fail = |error: io::Error| {
            let message = format!("cannot listen for replication on {host} port {port}: {error}");
            match error.raw_os_error() {
                Some(libc::EADDRINUSE) => Failure::new(
                    FailureKind::InUse,
                    message,
                    "stop the program that has it (ss -tlnp), or configure another port",
                ),
                _ => Failure::new(
                    FailureKind::Invalid,
                    message,
                    "configure an address of this machine (ip address), or 0.0.0.0 for all of them",
                ),
            }
        };
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(fail)?.collect();
        let listener = TcpListener::bind(&addresses[..]).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let registry = Arc::<Registry>::default();
        let closed = Arc::new(EventFd::new().map_err(fail)?);
        let mut doorman = Doorman {
            listener,
            registry: registry.clone(),
            closed: closed.clone(),
            half_open: Vec::new(),
            pause_until: None,
        };
        let thread = std::thread::Builder::new()
            .name("bp-listener".into())
            .spawn(move || doorman.serve())
            .map_err(fail)?;
        Ok(Listener {
            address,
            registry,
            closed,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections for `resource` from any of `peers` go to `inbox`, until the registration is dropped.
    ///
    /// # Errors
    /// `in_use` when this daemon runs an engine of that name already.
    pub fn register(
        &self,
        resource: &str,
        peers: Vec<String>,
        inbox: Arc<Inbox>,
    ) -> Result<Registration, Failure> {
        let mut routes = self.registry.lock();
        if routes.contains_key(resource) {
            return Err(Failure::new(
                FailureKind::InUse,
                format!("resource {resource} is up in this daemon already"),
                format!("take it down first: blockpair down {resource}"),
            ));
        }
        routes.insert(resource.to_owned(), Route { inbox, peers });
        Ok(Registration {
            registry: self.registry.clone(),
            resource: resource.to_owned(),
        })
    }

    /// Stops listening. Idempotent; engines keep the connections they have.
    pub fn close(&self) {
        self.closed.signal();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in it has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection that has not said who it is, or that was refused and has the rest of its time to read why.
struct HalfOpen {
    stream: TcpStream,
    bytes: Vec<u8>,
    wanted: usize,
    deadline: Instant,
    refused: bool,
}

enum Progress {
    Waiting,
    Hello(Hello),
    Over,
}

struct Doorman {
    listener: TcpListener,
    registry: Arc<Registry>,
    closed: Arc<EventFd>,
    half_open: Vec<HalfOpen>,
    pause_until: Option<Instant>,
}

impl Doorman {
    fn serve(&mut self) {
        loop {
            let now = Instant::now();
            self.half_open.retain(|connection| connection.deadline > now);
            self.pause_until = self.pause_until.filter(|until| *until > now);
            let deadlines = self.half_open.iter().map(|connection| connection.deadline);
            let next = deadlines.chain(self.pause_until).min();
            let timeout = next.map_or(-1, |at| {
                // Rounded up: waking a little early would turn into a busy loop.
                i32::try_from(at.saturating_duration_since(now).as_millis() + 1).unwrap_or(i32::MAX)
            });
            let entry = |fd: i32| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            let door = if self.pause_until.is_some() {
                -1
            } else {
                self.listener.as_raw_fd()
            };
            let mut polled = vec![entry(self.closed.fd()), entry(door)];
            polled.extend(
                self.half_open
                    .iter()
                    .map(|connection| entry(connection.stream.as_raw_fd())),
            );
            // SAFETY: `polled` is valid for its length.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
            if polled[0].revents != 0 {
                return;
            }
            // Backwards, because what is done with is removed.
            for index in (0..self.half_open.len()).rev() {
                if polled[index + 2].revents != 0 {
                    self.advance(index);
                }
            }
            if polled[1].revents != 0 {
                self.accept();
            }
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    if self.half_open.len() >= HALF_OPEN_MAX {
                        self.half_open.remove(0);
                    }
                    let deadline = Instant::now() + HELLO_TIMEOUT;
                    let wanted = match decode_hello(&[]) {
                        Ok(HelloStep::NeedMore { bytes }) => bytes,
                        _ => continue,
                    };
                    self.half_open.push(HalfOpen {
                        stream,
                        bytes: Vec::new(),
                        wanted,
                        deadline,
                        refused: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.pause_until = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn advance(&mut self, index: usize) {
        match self.half_open[index].read() {
            Progress::Waiting => {}
            Progress::Over => {
                self.half_open.remove(index);
            }
            Progress::Hello(hello) => {
                let connection = self.half_open.remove(index);
                self.route(connection, hello);
            }
        }
    }

    fn route(&mut self, mut connection: HalfOpen, hello: Hello) {
        let routes = self.registry.lock();
        let refusal = match routes.get(&hello.resource) {
            None => (
                GoodbyeReason::UnknownResource,
                format!("no resource {} is up here", hello.resource),
            ),
            Some(route) if !route.peers.contains(&hello.node) => (
                GoodbyeReason::UnknownNode,
                format!("{} is no peer of resource {} here", hello.node, hello.resource),
            ),
            Some(route) => {
                let received_bytes = connection.bytes.len() as u64;
                let (stream, hello) = (connection.stream, Box::new(hello));
                return route.inbox.push(match hello.intent {
                    Intent::Consult { .. } => Input::Consulted { stream, hello },
                    _ => Input::Accepted {
                        stream,
                        hello,
                        received_bytes,
                    },
                });
            }
        };
        drop(routes);
        let (reason, text) = refusal;
        let mut bytes = Vec::new();
        encode(&Message::Goodbye { reason, text }, 0, &mut bytes);
        // A fresh connection takes a few dozen bytes at once, or is not worth waiting for.
        if connection.stream.write_all(&bytes).is_ok() {
            let _ = connection.stream.shutdown(std::net::Shutdown::Write);
            connection.refused = true;
            connection.deadline = Instant::now() + LINGER;
            self.half_open.push(connection);
        }
    }
}

impl HalfOpen {
    /// Reads what is there, but never beyond the Hello: what follows is the engine's.
    fn read(&mut self) -> Progress {
        for _ in 0..READS_A_TURN {
            let have = if self.refused { 0 } else { self.bytes.len() };
            self.bytes.resize(self.wanted.max(have + 1), 0);
            let count = match io::Read::read(&mut self.stream, &mut self.bytes[have..]) {
                Ok(0) => return Progress::Over,
                Ok(count) => count,
                Err(error) => {
                    self.bytes.truncate(have);
                    return match error.kind() {
                        io::ErrorKind::WouldBlock => Progress::Waiting,
                        io::ErrorKind::Interrupted => continue,
                        _ => Progress::Over,
                    };
                }
            };
            if self.refused {
                continue;
            }
            self.bytes.truncate(have + count);
            match decode_hello(&self.bytes) {
                Ok(HelloStep::NeedMore { bytes }) => self.wanted = bytes,
                Ok(HelloStep::Hello { hello, .. }) => return Progress::Hello(hello),
                // Garbage: nobody is there who would understand an answer.
                Err(_) => return Progress::Over,
            }
        }
        // Whoever sends on and on must not keep the others from being heard.
        Progress::Waiting
    }
}
