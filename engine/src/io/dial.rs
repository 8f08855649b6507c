//! Reaching a peer: its addresses in order, TLS on top, until somebody answers who is that peer.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::tls::{refusal, Session, TrustStore};

/// How long one attempt to reach an address may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How often, and how soon again, a peer that was lost is looked for.
const PROBES: u32 = 8;
const PROBE_PAUSE: Duration = Duration::from_millis(10);
/// How long TLS's handshake may take on top.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a peer listens for replication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PeerAddress {
    pub host: String,
    pub port: u16,
}

impl PeerAddress {
    /// Whether it is an address of this machine's loopback. A name is none: what it resolves to may change.
    pub fn is_loopback(&self) -> bool {
        self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// All that is needed to reach a peer.
#[derive(Clone, Debug)]
pub struct Destination {
    pub name: String,
    /// In the order of preference. None: the peer is lost, and nobody is spoken to until it has a successor.
    pub addresses: Vec<PeerAddress>,
    pub tls: bool,
    pub trust: TrustStore,
    /// How often the addresses have changed: an attempt at earlier ones is void.
    pub changes: u64,
}

impl Destination {
    /// Whether the peer is nowhere: gone for good, with no successor yet.
    pub fn is_lost(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Connects to the first address where the peer answers, and proves itself to be that peer; says which of them it
    /// is. Takes seconds.
    ///
    /// # Errors
    /// Of each address, why not; a refusal if one of them is.
    pub fn reach(&self) -> io::Result<(usize, Channel)> {
        if self.is_lost() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "it is lost: it has no address",
            ));
        }
        let mut texts = Vec::new();
        let mut refused = false;
        for (index, address) in self.addresses.iter().enumerate() {
            match self.reach_address(address) {
                Ok(channel) => return Ok((index, channel)),
                Err(error) => {
                    refused |= super::tls::is_refusal(&error);
                    texts.push(format!("{address}: {error}"));
                }
            }
        }
        let text = texts.join("; ");
        Err(if refused {
            refusal(text)
        } else {
            io::Error::other(text)
        })
    }

    /// As [`reach`](Self::reach), at this one of its addresses only.
    ///
    /// # Errors
    /// Why not.
    pub fn reach_at(&self, index: usize) -> io::Result<Channel> {
        let address = self.addresses.get(index).ok_or(io::ErrorKind::NotFound)?;
        self.reach_address(address)
    }

    /// Whether every address of the peer's answers, and refuses: its machine is there, and its process is not. Takes a
    /// fraction of a second, as a process that is just ending refuses a moment later than its connections end.
    pub fn refuses(&self) -> bool {
        for again in 0..PROBES {
            if again > 0 {
                std::thread::sleep(PROBE_PAUSE);
            }
            let mut answers = false;
            for address in &self.addresses {
                match connect(address) {
                    Ok(_) => answers = true,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    // Silence proves nothing, and would not end soon.
                    Err(_) => return false,
                }
            }
            if !answers {
                return !self.is_lost();
            }
        }
        false
    }

    fn reach_address(&self, address: &PeerAddress) -> io::Result<Channel> {
        let (stream, reached) = connect(address)?;
        if !self.tls {
            return if reached.ip().is_loopback() {
                Channel::plain(stream)
            } else {
                Err(refusal("without TLS only a loopback address may be used"))
            };
        }
        let Some(trust) = self.trust.get() else {
            return Err(refusal(
                "this node has no certificates: it is in no cluster (blockpair cluster init, or join)",
            ));
        };
        let session = Session::client(&trust, &self.name).map_err(refusal)?;
        let mut channel = Channel::secured(stream, session)?;
        channel
            .shake_hands_by(Instant::now() + HANDSHAKE_TIMEOUT)
            .map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => io::Error::other("TLS's handshake was not answered in time"),
                io::ErrorKind::UnexpectedEof => {
                    io::Error::other("it closed the connection during TLS's handshake")
                }
                _ => error,
            })?;
        Ok(channel)
    }
}

/// Connects to the first address of the host that answers.
fn connect(address: &PeerAddress) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, DIAL_TIMEOUT) {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::io::tls::TrustStore;

    #[test]
    fn a_process_is_gone_when_each_of_its_addresses_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().port();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = gone.local_addr().unwrap().port();
        drop(gone);
        let refuses = |ports: &[u16]| {
            let addresses = ports.iter().map(|port| PeerAddress {
                host: "127.0.0.1".into(),
                port: *port,
            });
            let destination = Destination {
                name: "b".into(),
                addresses: addresses.collect(),
                tls: false,
                trust: TrustStore::default(),
                changes: 0,
            };
            destination.refuses()
        };
        assert!(refuses(&[closed]));
        assert!(!refuses(&[open]) && !refuses(&[closed, open]) && !refuses(&[]));
    }
}
