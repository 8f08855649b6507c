//! Gets a victim's data back: its blocks as new writes through a Primary, or its whole device as a file.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::client::Client;
use crate::bundle::{Bundle, BundleError};

const PIECE: usize = 1 << 20;

/// Writes every block of `bundle` to the NBD export on `socket`, and flushes: on return all of it is stable on
/// every connected node. Checks the whole bundle before the first write. Returns the bytes written.
///
/// # Errors
/// `Damaged` and nothing was written; `Io`, after which some of it may be: it can be repeated.
pub fn restore<F: Read + Seek>(bundle: &mut Bundle<F>, socket: &Path) -> Result<u64, BundleError> {
    bundle.verify(&|| true)?;
    let mut client = Client::connect(socket)?;
    if client.size_bytes() != bundle.facts().data_size_bytes {
        return Err(BundleError::Io(io::Error::other(format!(
            "the device has {} bytes, the bundle's had {}",
            client.size_bytes(),
            bundle.facts().data_size_bytes
        ))));
    }
    let mut written = 0;
    for chunk in 0..bundle.chunks() {
        let chunk = bundle.read(chunk)?;
        let mut rest = &chunk.data[..];
        for run in &chunk.runs {
            let (data, after) = rest.split_at(bundle.facts().bytes_of(run.first, run.count) as usize);
            client.write(run.first * u64::from(bundle.facts().block_size_bytes), data)?;
            written += data.len() as u64;
            rest = after;
        }
    }
    client.flush()?;
    Ok(written)
}

/// Copies the whole NBD export on `socket` to `file`, which is empty and becomes as long; zeroes become holes.
/// Durable on return, with the number of bytes.
///
/// # Errors
/// Where a block cannot be read (its offset is in the message), or written.
pub fn copy_image(socket: &Path, file: &File) -> io::Result<u64> {
    let mut client = Client::connect(socket)?;
    let size = client.size_bytes();
    file.set_len(size)?;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let piece = &mut buffer[..(size - at).min(PIECE as u64) as usize];
        client.read(at, piece).map_err(|error| {
            io::Error::new(error.kind(), format!("{} bytes at {at}: {error}", piece.len()))
        })?;
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, at)?;
        }
        at += piece.len() as u64;
    }
    file.sync_all()?;
    Ok(size)
}
