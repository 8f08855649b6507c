//! What the reactor tells about itself.

use std::os::fd::AsRawFd;
use std::time::Instant;

use serde_json::{json, Value};

use super::Reactor;
use crate::front::nbd::{Extent, Request};
use crate::io::disk::DeviceKind;
use crate::io::tls::Session;
use crate::wire::DiskState;

/// Runs looked up for one block status request, at most.
const EXTENTS_MAX: usize = 256;

impl Reactor {
    pub(super) fn publish(&mut self) {
        self.published = Instant::now();
        let status = self.status();
        for (slot, untrusted) in self.untrusted.iter_mut().enumerate() {
            if status["peers"][slot]["connection"] == "Connected" {
                *untrusted = None;
            }
        }
        self.shared.publish(status);
    }

    fn status(&self) -> Value {
        let core = self.replica.status(self.clock.now().max(self.now));
        let mut status = serde_json::to_value(core).expect("a status has no keys but text");
        for (name, took) in self.answered.latency() {
            status["latency"][name] = json!(took);
        }
        status["failed"] = json!(self.answered.failed);
        status["state"] = json!("running");
        status["failure"] = Value::Null;
        status["watchdog"] = json!(self.awaited_watchdog());
        status["backing"] = json!({
            "path": self.device.path(),
            "kind": self.device.kind(),
            "direct": self.device.is_direct(),
            "driver": self.disk.driver(),
        });
        let holder = self.meta.file().holder();
        let internal = holder.is_same(self.meta.file().device());
        status["metadata"] = json!({
            "kind": if internal { "internal" } else { "external" },
            "path": holder.path,
        });
        status["clients"] = self
            .clients
            .values()
            .map(|client| {
                json!({
                    "kind": client.kind,
                    "pid": client.pid,
                    "uid": client.uid,
                    "in_flight": client.in_flight,
                })
            })
            .collect();
        for (slot, address) in self.peers.iter().enumerate() {
            let mut wire = self.ended[slot];
            let mut cipher = None;
            for connection in self
                .connections
                .values()
                .filter(|connection| connection.slot == slot)
            {
                wire.add(connection.counters());
                cipher = connection.channel.session().and_then(Session::cipher);
            }
            let peer = &mut status["peers"][slot];
            peer["address"] = json!(address.addresses.first().map(ToString::to_string));
            peer["tls"] = json!(address.tls);
            peer["cipher"] = json!(cipher);
            let connected = peer["connection"] == "Connected";
            peer["untrusted"] = json!(self.untrusted[slot].as_ref().filter(|_| !connected));
            peer["paths"] = self.path_status(slot, connected);
            peer["wire"] = json!(wire);
        }
        status
    }

    /// Holes of the backing file in a range; nothing where finding them is not cheap or may not be true.
    pub(super) fn allocation(&self, request: &Request) -> Vec<Extent> {
        let cheap = self.device.kind() == DeviceKind::File && !self.device.in_memory();
        if !cheap || self.replica.status(self.now).disk != DiskState::UpToDate {
            return Vec::new();
        }
        let file = self.device.file();
        let end = request.offset + u64::from(request.length);
        let unit = self.device.alignment() as u64;
        let mut extents = Vec::new();
        let mut at = request.offset;
        while at < end && extents.len() < EXTENTS_MAX {
            // SAFETY: plain system calls on an open descriptor; nothing here uses its position.
            let data = unsafe { libc::lseek(file.as_raw_fd(), at as libc::off_t, libc::SEEK_DATA) };
            let no_more = data < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
            if data < 0 && !no_more {
                return Vec::new();
            }
            // Rounded so that a hole is never reported where data begins.
            let data = if no_more {
                end
            } else {
                (data as u64 / unit * unit).clamp(at, end)
            };
            if data > at {
                extents.push(Extent {
                    length: data - at,
                    hole: true,
                    zero: true,
                });
            }
            if data >= end {
                break;
            }
            // SAFETY: as above.
            let hole = unsafe { libc::lseek(file.as_raw_fd(), data as libc::off_t, libc::SEEK_HOLE) };
            let hole = if hole < 0 {
                end
            } else {
                (hole as u64).next_multiple_of(unit).min(end)
            };
            if hole <= data {
                return Vec::new();
            }
            extents.push(Extent {
                length: hole - data,
                hole: false,
                zero: false,
            });
            at = hole;
        }
        extents
    }
}
