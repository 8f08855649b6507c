//! One TCP connection to a peer.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use socket2::{SockRef, TcpKeepalive};

use super::channel::Channel;
use super::inbound::Filling;
use super::poll::Interest;
use super::socket::{Received, SendQueue};
use crate::core::{ConnectionId, PeerSlot};
use crate::front::nbd::ReceiveBuffer;
use crate::session::PathIndex;
use crate::wire::{encode, Decoder, Message, Step, INLINE_FRAME_MAX};

/// Bytes received at once, at most.
const INPUT_BYTES: usize = 256 << 10;
const _: () = assert!(INPUT_BYTES >= 2 * INLINE_FRAME_MAX);
/// The kernel reports the socket writable only while less than this is unsent in it: what waits longer waits
/// here, where it is counted.
const UNSENT_MAX: u32 = 256 << 10;

/// Bytes through a peer's connections: as counted here, and as the kernel counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WireCounters {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub kernel_sent_bytes: u64,
    pub kernel_received_bytes: u64,
}

impl WireCounters {
    pub fn add(&mut self, other: WireCounters) {
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.kernel_sent_bytes += other.kernel_sent_bytes;
        self.kernel_received_bytes += other.kernel_received_bytes;
    }
}

pub struct PeerConnection {
    pub slot: PeerSlot,
    pub id: ConnectionId,
    pub channel: Channel,
    pub queue: SendQueue,
    pub interest: Interest,
    /// The core has let go of it: what is queued is sent, what arrives is dropped, and at this time it ends.
    pub closing: Option<Instant>,
    /// Messages may be waiting that the core had no room for.
    pub stalled: bool,
    /// The end of our stream was sent.
    pub finished: bool,
    /// Which of the peer's addresses it is for.
    pub path: PathIndex,
    /// It is one of a session's, of which `id` is the core's name.
    pub in_session: bool,
    /// More waits to be sent than an honest peer lets pile up.
    pub overfull: bool,
    decoder: Decoder,
    input: ReceiveBuffer,
    filling: Option<Filling>,
}

impl PeerConnection {
    /// `early`: what came with the Hello that the listener has read, and belongs after it.
    ///
    /// # Errors
    /// When the socket does not take its options, or `early` is more than any honest peer sends.
    pub fn new(slot: PeerSlot, id: ConnectionId, channel: Channel, early: &[u8]) -> io::Result<Self> {
        // SAFETY: the channel keeps its descriptor open beyond these calls.
        let fd = unsafe { BorrowedFd::borrow_raw(channel.fd()) };
        let socket = SockRef::from(&fd);
        socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(std::time::Duration::from_secs(10))
            .with_interval(std::time::Duration::from_secs(5))
            .with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_notsent_lowat(UNSENT_MAX)?;
        let mut input = ReceiveBuffer::new(INPUT_BYTES);
        let Some(room) = input.space().get_mut(..early.len()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        room.copy_from_slice(early);
        input.filled(early.len());
        Ok(PeerConnection {
            slot,
            id,
            channel,
            queue: SendQueue::default(),
            interest: Interest::READ,
            closing: None,
            stalled: false,
            finished: false,
            overfull: false,
            path: 0,
            in_session: false,
            decoder: Decoder::new(),
            input,
            filling: None,
        })
    }

    pub fn send(&mut self, message: &Message, epoch: u64) {
        if let Some(payload) = self.queue.append(|out| encode(message, epoch, out)) {
            self.queue.append_payload(payload);
        }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.channel.flush(&mut self.queue)
    }

    /// Whether something waits to be sent.
    pub fn wants_write(&self) -> bool {
        !self.queue.is_empty() || self.channel.wants_write()
    }

    pub fn receive(&mut self) -> io::Result<Received> {
        self.channel.receive(&mut self.input, &mut self.filling)
    }

    /// Throws away what has arrived on a closing connection.
    pub fn discard(&mut self) {
        self.input.consume(self.input.data().len());
        self.filling = None;
    }

    /// The next whole, checked message of what was received, and the epoch that its sender was in.
    ///
    /// # Errors
    /// What is wrong with the stream, for people; it cannot be followed any further.
    pub fn next(&mut self) -> Result<Option<(u64, Message)>, String> {
        loop {
            if let Some(filling) = &mut self.filling {
                filling.take_from(&mut self.input);
                if !filling.is_full() {
                    return Ok(None);
                }
                let payload = self.filling.take().expect("it is there").finish();
                let heard = self.decoder.finish(payload).map_err(|error| error.to_string())?;
                return Ok(Some(heard));
            }
            match self
                .decoder
                .next(self.input.data())
                .map_err(|error| error.to_string())?
            {
                Step::NeedMore { .. } => return Ok(None),
                Step::Message {
                    consumed,
                    epoch,
                    message,
                } => {
                    self.input.consume(consumed);
                    return Ok(Some((epoch, message)));
                }
                Step::Payload {
                    consumed,
                    payload_len,
                } => {
                    self.input.consume(consumed);
                    self.filling = Some(Filling::new(payload_len));
                }
            }
        }
    }

    /// What went through this connection so far.
    pub fn counters(&self) -> WireCounters {
        let (kernel_sent_bytes, kernel_received_bytes) = self.kernel_counters().unwrap_or((0, 0));
        WireCounters {
            sent_bytes: self.channel.sent_bytes(),
            received_bytes: self.channel.received_bytes(),
            kernel_sent_bytes,
            kernel_received_bytes,
        }
    }

    /// Bytes sent (without those sent again) and received, as the kernel counts them.
    fn kernel_counters(&self) -> Option<(u64, u64)> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut len = std::mem::size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: `info` is valid for writes of `len` bytes.
        let result = unsafe {
            libc::getsockopt(
                self.channel.fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &mut len,
            )
        };
        // SAFETY: all zeroes is a valid tcp_info, and the kernel only wrote whole fields.
        let info = unsafe { info.assume_init() };
        (result == 0).then(|| {
            (
                info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans),
                info.tcpi_bytes_received,
            )
        })
    }
}
