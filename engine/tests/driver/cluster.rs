//! Two engines in this process, over loopback, on files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use _engine::io::engine::Engine;
use _engine::io::listener::Listener;
use _engine::io::metadata::create_metadata;
use serde_json::{json, Value};

/// Waiting for a state longer than this is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

pub const NAMES: [&str; 2] = ["a", "b"];

pub struct Node {
    pub listener: Listener,
    pub engine: Option<Engine>,
}

pub struct Cluster {
    pub directory: tempfile::TempDir,
    pub nodes: [Node; 2],
    /// Whether they speak TLS; their listeners must have been given something to trust.
    pub tls: bool,
    /// What a node is told of the other's addresses, if that is not its listener's own.
    pub addresses: [Option<Vec<Value>>; 2],
    /// The times of arbitration; null without an arbiter.
    pub arbitration: Value,
    driver: &'static str,
    protocol: &'static str,
}

impl Cluster {
    /// Metadata and backing files in a new directory inside `place`; nothing is up.
    pub fn new(place: &Path, size: u64, driver: &'static str, protocol: &'static str) -> Cluster {
        let directory = tempfile::tempdir_in(place).unwrap();
        let node = || Node {
            listener: Listener::open("127.0.0.1", 0).unwrap(),
            engine: None,
        };
        let cluster = Cluster {
            directory,
            nodes: [node(), node()],
            tls: false,
            addresses: [None, None],
            arbitration: Value::Null,
            driver,
            protocol,
        };
        for n in 0..2 {
            File::create(cluster.backing(n)).unwrap().set_len(size).unwrap();
            let spec = json!({
                "resource": "r0", "node": NAMES[n], "device": cluster.backing(n),
                "metadata": {"kind": "external", "path": cluster.metadata(n)},
                "block_size_bytes": 4096, "peers": [NAMES[1 - n]], "overwrite": false,
            });
            create_metadata(&spec.to_string()).unwrap();
        }
        cluster
    }

    pub fn backing(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("{}.data", NAMES[n]))
    }

    fn metadata(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("{}.meta", NAMES[n]))
    }

    pub fn socket(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("{}.sock", NAMES[n]))
    }

    pub fn spec(&self, n: usize) -> Value {
        let own = json!([{"host": "127.0.0.1", "port": self.nodes[1 - n].listener.port()}]);
        let addresses = self.addresses[n]
            .as_ref()
            .map_or(own, |addresses| json!(addresses));
        json!({
            "resource": "r0", "node": NAMES[n], "device": self.backing(n),
            "metadata": {"kind": "external", "path": self.metadata(n)},
            "protocol": self.protocol,
            "peers": [{
                "name": NAMES[1 - n],
                "addresses": addresses,
                "tls": self.tls,
            }],
            "socket": self.socket(n), "peer_timeout_ms": 3000, "resume": false, "resume_wait_ms": 1000,
            "disk_driver": self.driver, "connect": true, "bundles": self.directory.path().join("bundles"),
            "arbitration": self.arbitration,
        })
    }

    pub fn up(&mut self, n: usize) {
        let spec = self.spec(n).to_string();
        self.nodes[n].engine = Some(Engine::start(&spec, &self.nodes[n].listener).unwrap());
    }

    pub fn engine(&self, n: usize) -> &Engine {
        self.nodes[n].engine.as_ref().unwrap()
    }

    pub fn call(&self, n: usize, command: Value) {
        self.engine(n).call(&command.to_string()).unwrap();
    }

    pub fn status(&self, n: usize) -> Value {
        serde_json::from_str(&self.engine(n).status()).unwrap()
    }

    /// Waits until `condition` holds for the status of node `n`, and returns that.
    pub fn wait(&self, n: usize, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(n);
            if condition(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{}: not {what} in time: {status:#}",
                NAMES[n]
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Both up, a is the source of the first sync and Primary, both copies are good.
    pub fn start(&mut self) {
        self.up(0);
        self.up(1);
        self.first_sync();
        self.call(0, json!({"command": "promote", "force": false}));
    }

    /// Both are up; a becomes the source.
    pub fn first_sync(&self) {
        self.wait(0, "waiting for a source", |status| {
            status["peers"][0]["replication"] == "Waiting"
        });
        self.call(0, json!({"command": "sync", "source": "a"}));
        self.wait_in_sync();
    }

    pub fn wait_in_sync(&self) {
        for n in 0..2 {
            self.wait(n, "in sync", |status| {
                status["disk"] == "UpToDate" && status["peers"][0]["replication"] == "Established"
            });
        }
    }

    /// Takes both down, and compares the backing files.
    pub fn assert_equal_copies(&mut self) {
        for node in &mut self.nodes {
            if let Some(engine) = node.engine.take() {
                engine.stop().unwrap();
            }
        }
        let [first, second] = [0, 1].map(|n| std::fs::read(self.backing(n)).unwrap());
        assert!(first == second, "the copies differ");
    }
}
