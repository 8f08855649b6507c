//! A plain NBD client on a Unix socket: one request at a time. For this machine's own exports.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
/// Fixed newstyle, no padding after the export's description.
const FLAGS: u32 = 3;
const OPT_EXPORT_NAME: u32 = 1;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

pub struct Client {
    stream: UnixStream,
    size: u64,
    cookie: u64,
}

impl Client {
    /// Connects to the only export of `socket`.
    pub fn connect(socket: &Path) -> io::Result<Client> {
        let mut stream = UnixStream::connect(socket)?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if greeting[..16] != *GREETING {
            return Err(io::Error::other("it does not speak NBD"));
        }
        let mut hello = FLAGS.to_be_bytes().to_vec();
        hello.extend(&GREETING[8..]);
        hello.extend(OPT_EXPORT_NAME.to_be_bytes());
        hello.extend(0_u32.to_be_bytes());
        stream.write_all(&hello)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        Ok(Client {
            stream,
            size: u64::from_be_bytes(answer[..8].try_into().expect("eight bytes")),
            cookie: 0,
        })
    }

    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.ask(READ, offset, into.len(), &[])?;
        self.stream.read_exact(into)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ask(WRITE, offset, data.len(), data)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.ask(FLUSH, 0, 0, &[])
    }

    /// Sends a request and reads the reply's header.
    fn ask(&mut self, command: u16, offset: u64, len: usize, data: &[u8]) -> io::Result<()> {
        self.send(command, offset, len, data)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        let field = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().expect("four bytes"));
        if field(0) != REPLY_MAGIC || reply[8..] != self.cookie.to_be_bytes() {
            return Err(io::Error::other("the NBD server's reply is not understood"));
        }
        match field(4) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error as i32)),
        }
    }

    fn send(&mut self, command: u16, offset: u64, len: usize, data: &[u8]) -> io::Result<()> {
        self.cookie += 1;
        let mut header = REQUEST_MAGIC.to_be_bytes().to_vec();
        header.extend(0_u16.to_be_bytes());
        header.extend(command.to_be_bytes());
        header.extend(self.cookie.to_be_bytes());
        header.extend(offset.to_be_bytes());
        header.extend((len as u32).to_be_bytes()); // at most a chunk
        self.stream.write_all(&header)?;
        self.stream.write_all(data)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A server that is gone needs no leave.
        let _ = self.send(DISCONNECT, 0, 0, &[]);
    }
}
