//! One TLS connection, sans I/O: what was received goes in, plaintext comes out; plaintext goes in, what is to be sent
//! comes out.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};

use super::trust::{check_name, dns_name, Trust};
use super::words;

/// Plaintext of one record, at most.
pub const RECORD_MAX: usize = 16 << 10;
/// What a record has beside its plaintext: header, content type, tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;
/// What may go out beside the records that are asked for: a change of keys, an alert.
const CONTROL_ROOM: usize = 1 << 10;
/// Encrypted bytes that wait to be sent, about: more is encrypted when these are gone.
const OUTGOING_MAX: usize = 256 << 10;
/// Bytes of an unfinished handshake, at most: a certificate chain is a few thousand.
const HANDSHAKE_MAX: usize = 64 << 10;

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The other side has not proved who it is.
    Handshake,
    Open,
    /// The other side has said that nothing follows: what came before is whole.
    Ended,
    /// One side has found fault with the other: nothing more is read or written.
    Failed,
}

pub struct Session {
    side: Side,
    state: State,
    /// Received and not decrypted: less than a record, but while it is being worked on.
    incoming: Window,
    outgoing: Window,
    handshake_bytes: usize,
}

/// Bytes that come at the back and go at the front, in memory that is not cleared each time.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Window {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    /// At least `count` bytes of room at the back.
    fn room(&mut self, count: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < count {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.bytes.len() < self.end + count {
                self.bytes.resize(self.end + count, 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    fn drop_front(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

/// What one step of the library's state machine left to do.
enum Step {
    Again,
    /// It wants more from the other side.
    Wait(State),
}

/// What is done where something may be encrypted.
type Write<'a, D> = &'a mut dyn FnMut(WriteTraffic<'_, D>, &mut Window) -> Result<(), rustls::Error>;

/// Handles one status of the library, for either side: the types differ, the steps do not.
fn handle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Window,
    deliver: &mut dyn FnMut(&[u8]),
    write: Write<'_, D>,
) -> (usize, Result<Step, rustls::Error>) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    deliver(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let mut room = CONTROL_ROOM;
            loop {
                match data.encode(outgoing.room(room)) {
                    Ok(count) => {
                        outgoing.end += count;
                        break Ok(Step::Again);
                    }
                    Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
                    Err(error) => break Err(rustls::Error::General(error.to_string())),
                }
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is ours from here on, and goes out in order.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Wait(State::Handshake)),
        Ok(ConnectionState::WriteTraffic(traffic)) => {
            write(traffic, outgoing).map(|()| Step::Wait(State::Open))
        }
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Wait(State::Ended)),
        // Early data are never offered nor accepted.
        Ok(other) => Err(rustls::Error::General(format!("unexpected state {other:?}"))),
    };
    (discard, step)
}

enum Wanted<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    Close,
    #[cfg(test)]
    Refresh,
}

impl Session {
    /// The side that dialled; the other must be `node`.
    ///
    /// # Errors
    /// When `node` cannot be a name in a certificate.
    pub fn client(trust: &Trust, node: &str) -> Result<Session, String> {
        let name = ServerName::DnsName(dns_name(node)?);
        let side = UnbufferedClientConnection::new(Arc::clone(&trust.client), name)
            .map_err(|error| words::why(&error))?;
        Ok(Session::new(Side::Client(side)))
    }

    /// The side that accepted; who the other is, [`check_peer`](Self::check_peer) says later.
    ///
    /// # Errors
    /// When the library refuses its configuration.
    pub fn server(trust: &Trust) -> Result<Session, String> {
        let side =
            UnbufferedServerConnection::new(Arc::clone(&trust.server)).map_err(|error| words::why(&error))?;
        Ok(Session::new(Side::Server(side)))
    }

    fn new(side: Side) -> Session {
        Session {
            side,
            state: State::Handshake,
            incoming: Window::default(),
            outgoing: Window::default(),
            handshake_bytes: 0,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Room to receive `count` bytes into, followed by [`filled`](Self::filled).
    pub fn room(&mut self, count: usize) -> &mut [u8] {
        &mut self.incoming.room(count)[..count]
    }

    /// Says that `count` bytes were received into [`room`](Self::room).
    pub fn filled(&mut self, count: usize) {
        if self.state == State::Handshake {
            self.handshake_bytes += count;
        }
        self.incoming.end += count;
    }

    /// Received bytes that wait for the rest of their record.
    pub fn waiting(&self) -> usize {
        self.incoming.len()
    }

    /// Decrypts all whole records that were received, and hands `deliver` their plaintext; goes on with the
    /// handshake. It may leave bytes to be sent.
    ///
    /// # Errors
    /// What is wrong with the other side, for people. An alert for it may wait to be sent; nothing else is.
    pub fn advance(&mut self, deliver: &mut dyn FnMut(&[u8])) -> Result<State, String> {
        if self.state == State::Handshake && self.handshake_bytes > HANDSHAKE_MAX {
            self.state = State::Failed;
            return Err("its TLS handshake is longer than any honest one".into());
        }
        let state = self.run(&Wanted::Nothing, deliver)?;
        if state == State::Ended {
            // After its own end nothing counts.
            self.incoming.drop_front(self.incoming.len());
        }
        Ok(state)
    }

    fn run(&mut self, wanted: &Wanted<'_>, deliver: &mut dyn FnMut(&[u8])) -> Result<State, String> {
        if self.state == State::Failed {
            // The library would judge the same input again.
            return Err("its TLS has failed before".into());
        }
        loop {
            match self.step(wanted, deliver) {
                Ok(Step::Again) => {}
                Ok(Step::Wait(state)) => {
                    // The end, once told, stays.
                    if self.state != State::Ended {
                        self.state = state;
                    }
                    return Ok(self.state);
                }
                Err(error) => {
                    // What the library still wants to say ends with an alert, as a rule. It must not look at the input
                    // again: that has failed.
                    while self.has_words() && self.step(&Wanted::Nothing, &mut |_| {}).is_ok() {}
                    self.state = State::Failed;
                    return Err(words::why(&error));
                }
            }
        }
    }

    /// Whether the library's next step is to say something, whatever was received.
    fn has_words(&self) -> bool {
        match &self.side {
            Side::Client(side) => side.wants_write(),
            Side::Server(side) => side.wants_write(),
        }
    }

    fn step(&mut self, wanted: &Wanted<'_>, deliver: &mut dyn FnMut(&[u8])) -> Result<Step, rustls::Error> {
        let incoming = &mut self.incoming.bytes[self.incoming.start..self.incoming.end];
        let outgoing = &mut self.outgoing;
        let (discard, step) = match &mut self.side {
            Side::Client(side) => {
                let status = side.process_tls_records(incoming);
                handle(status, outgoing, deliver, &mut |traffic, out| {
                    put(wanted, traffic, out)
                })
            }
            Side::Server(side) => {
                let status = side.process_tls_records(incoming);
                handle(status, outgoing, deliver, &mut |traffic, out| {
                    put(wanted, traffic, out)
                })
            }
        };
        self.incoming.drop_front(discard);
        step
    }

    /// The end of what the other side says is not the end of what it hears.
    fn may_say(&self) -> bool {
        matches!(self.state, State::Open | State::Ended)
    }

    /// Whether more plaintext should be given to [`encrypt`](Self::encrypt) before what waits is sent.
    pub fn takes_more(&self) -> bool {
        self.may_say() && self.outgoing.len() < OUTGOING_MAX
    }

    /// Encrypts `plaintext` (any length; it is cut into records), to be sent.
    ///
    /// # Errors
    /// When the session is not open, or its keys are used up.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Result<(), String> {
        if !self.may_say() {
            return Err("its TLS is not open".into());
        }
        // Received records were all decrypted: none comes out here.
        self.run(&Wanted::Encrypt(plaintext), &mut |_| {})?;
        Ok(())
    }

    /// Tells the other side that nothing follows, if it would understand that.
    ///
    /// # Errors
    /// When the library cannot.
    pub fn close(&mut self) -> Result<(), String> {
        match self.state {
            State::Open | State::Ended => self.run(&Wanted::Close, &mut |_| {}).map(drop),
            State::Handshake | State::Failed => Ok(()),
        }
    }

    /// What is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        self.outgoing.data()
    }

    /// Says that `count` bytes of [`outgoing`](Self::outgoing) were sent.
    pub fn sent(&mut self, count: usize) {
        self.outgoing.drop_front(count);
    }

    fn certificates(&self) -> &[CertificateDer<'static>] {
        match &self.side {
            Side::Client(side) => side.peer_certificates(),
            Side::Server(side) => side.peer_certificates(),
        }
        .unwrap_or_default()
    }

    /// Whether the certificate that the other side has proved is that of `node`.
    ///
    /// # Errors
    /// Whose it is, for people.
    pub fn check_peer(&self, node: &str) -> Result<(), String> {
        match self.certificates().first() {
            Some(certificate) if self.may_say() => check_name(certificate, node),
            _ => Err("it has proved no certificate".into()),
        }
    }

    /// The cipher suite's name, once it is agreed.
    pub fn cipher(&self) -> Option<&'static str> {
        match &self.side {
            Side::Client(side) => side.negotiated_cipher_suite(),
            Side::Server(side) => side.negotiated_cipher_suite(),
        }
        .and_then(|suite| suite.suite().as_str())
    }
}

/// Encrypts what is wanted behind what waits.
fn put<D>(
    wanted: &Wanted<'_>,
    mut traffic: WriteTraffic<'_, D>,
    outgoing: &mut Window,
) -> Result<(), rustls::Error> {
    let mut room = match wanted {
        Wanted::Nothing => return Ok(()),
        Wanted::Encrypt(plaintext) => {
            CONTROL_ROOM + plaintext.len() + plaintext.len().div_ceil(RECORD_MAX) * RECORD_OVERHEAD
        }
        Wanted::Close => CONTROL_ROOM,
        #[cfg(test)]
        Wanted::Refresh => return traffic.refresh_traffic_keys(),
    };
    loop {
        let into = outgoing.room(room);
        let written = match wanted {
            Wanted::Encrypt(plaintext) => traffic.encrypt(plaintext, into),
            _ => traffic.queue_close_notify(into),
        };
        match written {
            Ok(count) => {
                outgoing.end += count;
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                room = size.required_size
            }
            Err(error) => return Err(rustls::Error::General(error.to_string())),
        }
    }
}

#[cfg(test)]
impl Session {
    /// Changes the keys of what is sent, as the library does by itself when they have encrypted enough.
    pub fn refresh_keys(&mut self) {
        self.run(&Wanted::Refresh, &mut |_| {}).unwrap();
        // What there is to be said of that.
        self.run(&Wanted::Nothing, &mut |_| {}).unwrap();
    }
}
