//! The replication port: one a daemon. Sees to TLS's handshake and the first Hello of each connection, and hands the
//! connection to the engine of that resource.

mod doorman;
mod refusals;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::event::EventFd;
use super::failure::{Failure, FailureKind};
use super::inbox::Inbox;
use super::shared::{Events, Shared};
use super::tls::{Trust, TrustStore};
use doorman::Doorman;

/// Connections that the kernel keeps until they are taken.
const BACKLOG: i32 = 1024;

/// A peer whose connections a resource takes.
#[derive(Clone, Debug)]
pub struct Expected {
    pub name: String,
    /// It must prove that it is who it says.
    pub tls: bool,
}

struct Route {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    peers: Vec<Expected>,
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
    trust: TrustStore,
    events: Arc<Events>,
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
        // The standard library's is an eighth of it: an honest peer must not be dropped with a crowd.
        // SAFETY: a plain system call on an open descriptor.
        if unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) } < 0 {
            return Err(fail(io::Error::last_os_error()));
        }
        let address = listener.local_addr().map_err(fail)?;
        let registry = Arc::<Registry>::default();
        let closed = Arc::new(EventFd::new().map_err(fail)?);
        let trust = TrustStore::default();
        let events = Arc::new(Events::new().map_err(fail)?);
        let mut doorman = Doorman::new(
            listener,
            registry.clone(),
            trust.clone(),
            events.clone(),
            closed.clone(),
        );
        let thread = std::thread::Builder::new()
            .name("bp-listener".into())
            .spawn(move || doorman.serve())
            .map_err(fail)?;
        Ok(Listener {
            address,
            registry,
            trust,
            events,
            closed,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What new connections are to trust, as JSON ([`Trust::parse`]); nothing: TLS is not spoken.
    ///
    /// # Errors
    /// When it cannot be used; what was trusted before still is.
    pub fn set_trust(&self, trust: Option<&str>) -> Result<(), Failure> {
        let trust = trust.map(Trust::parse).transpose()?;
        self.trust.set(trust);
        Ok(())
    }

    /// The same for who dials.
    pub fn trust(&self) -> TrustStore {
        self.trust.clone()
    }

    /// The events since the last call that are no resource's, as JSON: who was turned away, and why.
    pub fn events(&self) -> String {
        serde_json::to_string(&self.events.take()).expect("events have no keys but text")
    }

    /// Readable when [`events`](Self::events) has something.
    pub fn event_fd(&self) -> RawFd {
        self.events.fd()
    }

    /// Connections for `resource` from any of `peers` go to `inbox`, and what is refused of them is told to `shared`,
    /// until the registration is dropped.
    ///
    /// # Errors
    /// `in_use` when this daemon runs an engine of that name already.
    pub fn register(
        &self,
        resource: &str,
        peers: Vec<Expected>,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
    ) -> Result<Registration, Failure> {
        let mut routes = self.registry.lock();
        if routes.contains_key(resource) {
            return Err(Failure::new(
                FailureKind::InUse,
                format!("resource {resource} is up in this daemon already"),
                format!("take it down first: blockpair down {resource}"),
            ));
        }
        routes.insert(resource.to_owned(), Route { inbox, shared, peers });
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
