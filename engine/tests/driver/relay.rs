//! A relay in front of a listener: a cable that can be pulled, or go silent either way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// Towards whom nothing passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Who dialled.
    pub dialler: bool,
    pub listener: bool,
}

#[derive(Default)]
struct State {
    pulled: bool,
    held: Held,
    streams: Vec<TcpStream>,
    accepted: usize,
}

#[derive(Default)]
struct Cable {
    state: Mutex<State>,
    changed: Condvar,
}

pub struct Relay {
    pub port: u16,
    cable: Arc<Cable>,
}

impl Relay {
    /// In front of `port` on this machine. Its threads end with the connections, or with the process.
    pub fn open(port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay {
            port: listener.local_addr().unwrap().port(),
            cable: Arc::default(),
        };
        let cable = relay.cable.clone();
        std::thread::spawn(move || {
            for dialler in listener.incoming() {
                let dialler = dialler.unwrap();
                let mut state = cable.state.lock().unwrap();
                if state.pulled {
                    continue;
                }
                let Ok(listener) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                state.accepted += 1;
                for (from, to, to_dialler) in [(&dialler, &listener, false), (&listener, &dialler, true)] {
                    from.set_nodelay(true).unwrap();
                    state.streams.push(from.try_clone().unwrap());
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cable = cable.clone();
                    std::thread::spawn(move || cable.carry(from, to, to_dialler));
                }
            }
        });
        relay
    }

    /// Ends all its connections, and takes no more.
    pub fn pull(&self) {
        let mut state = self.cable.state.lock().unwrap();
        state.pulled = true;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.cable.changed.notify_all();
    }

    /// From here on nothing, not even the end of a connection, passes where it is held.
    pub fn hold(&self, held: Held) {
        self.cable.state.lock().unwrap().held = held;
        self.cable.changed.notify_all();
    }

    /// As in the beginning.
    pub fn mend(&self) {
        self.cable.state.lock().unwrap().pulled = false;
        self.hold(Held::default());
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> usize {
        self.cable.state.lock().unwrap().accepted
    }
}

impl Cable {
    fn carry(&self, mut from: TcpStream, mut to: TcpStream, to_dialler: bool) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            let held = |state: &mut State| {
                let held = if to_dialler {
                    state.held.dialler
                } else {
                    state.held.listener
                };
                held && !state.pulled
            };
            drop(self.changed.wait_while(self.state.lock().unwrap(), held).unwrap());
            if count == 0 || to.write_all(&buffer[..count]).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    }
}
