//! A small NBD client: one export, simple replies, many requests in flight if asked for.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;
pub const FUA: u16 = 1;

pub struct NbdClient {
    pub stream: UnixStream,
    cookie: u64,
}

impl NbdClient {
    /// Connects, and takes the export by its name; returns the client and the size.
    pub fn connect(path: &Path) -> io::Result<(NbdClient, u64)> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                // The socket appears a moment after the promotion is answered.
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting[..8], b"NBDMAGIC");
        // Fixed newstyle, no zeroes; EXPORT_NAME of the default export.
        stream.write_all(&3_u32.to_be_bytes())?;
        stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0")?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        let size = u64::from_be_bytes(answer[..8].try_into().unwrap());
        Ok((NbdClient { stream, cookie: 0 }, size))
    }

    /// The same connection, for another thread to take the replies.
    pub fn twin(&self) -> NbdClient {
        NbdClient {
            stream: self.stream.try_clone().unwrap(),
            cookie: 0,
        }
    }

    pub fn send(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        len: u32,
        payload: &[u8],
    ) -> io::Result<u64> {
        self.cookie += 1;
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&self.cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes)?;
        Ok(self.cookie)
    }

    /// The next reply's cookie and error number.
    pub fn reply(&mut self) -> io::Result<(u64, u32)> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        assert_eq!(header[..4], 0x6744_6698_u32.to_be_bytes());
        let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
        Ok((u64::from_be_bytes(header[8..].try_into().unwrap()), error))
    }

    fn one(&mut self, command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) {
        let cookie = self.send(command, flags, offset, len, payload).unwrap();
        assert_eq!(self.reply().unwrap(), (cookie, 0));
    }

    pub fn write(&mut self, offset: u64, payload: &[u8], flags: u16) {
        self.one(WRITE, flags, offset, payload.len() as u32, payload);
    }

    pub fn zero(&mut self, command: u16, offset: u64, len: u32) {
        self.one(command, 0, offset, len, &[]);
    }

    pub fn flush(&mut self) {
        self.one(FLUSH, 0, 0, 0, &[]);
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        self.one(READ, 0, offset, len, &[]);
        let mut bytes = vec![0; len as usize];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}
