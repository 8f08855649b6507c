//! A split brain between two engines, ended by a person: with real sockets, disks and a bundle in a file.

use std::fs::{self, File};
use std::path::PathBuf;

use _engine::bundle::Bundle;
use _engine::io::bundle::copy_image;
use _engine::io::engine::Engine;
use serde_json::json;

use crate::client::{NbdClient, FUA};
use crate::cluster::Cluster;
use crate::{memory, noise, MIB};

const BLOCK: usize = 4096;
const SIZE: u64 = 16 * MIB;

/// Both wrote without the other; a is Primary, b was. The device of b.
fn split() -> (Cluster, Vec<u8>) {
    let mut cluster = Cluster::new(&memory(), SIZE, "auto", "C");
    cluster.start();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    nbd.write(0, &noise(1, MIB as usize), FUA);
    for n in 0..2 {
        let peer = crate::cluster::NAMES[1 - n];
        cluster.call(n, json!({"command": "disconnect", "peer": peer}));
    }
    nbd.write(MIB / 2, &noise(2, MIB as usize), FUA);
    cluster.call(1, json!({"command": "promote", "force": true}));
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(1)).unwrap();
    nbd.write(MIB, &noise(3, 64 * BLOCK), FUA);
    nbd.write(9 * MIB, &noise(4, 3 * BLOCK), FUA);
    drop(nbd);
    cluster.call(1, json!({"command": "demote"}));
    for n in 0..2 {
        let peer = crate::cluster::NAMES[1 - n];
        cluster.call(n, json!({"command": "connect", "peer": peer}));
    }
    for n in 0..2 {
        cluster.wait(n, "apart", |status| {
            let peer = &status["peers"][0];
            peer["split_brain"] == true && peer["connection"] == "StandAlone"
        });
    }
    let was = fs::read(cluster.backing(1)).unwrap();
    (cluster, was)
}

fn bundles(cluster: &Cluster) -> Vec<PathBuf> {
    let folder = cluster.directory.path().join("bundles");
    let mut found = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|suffix| suffix == "bpb") {
                found.push(path);
            }
        }
    }
    found
}

/// The present copy, with the bundle's blocks over it.
fn overlaid(bundle: &PathBuf, mut copy: Vec<u8>) -> Vec<u8> {
    let mut bundle = Bundle::open(File::open(bundle).unwrap()).unwrap();
    assert_eq!(bundle.facts().node, "b");
    for chunk in 0..bundle.chunks() {
        let chunk = bundle.read(chunk).unwrap();
        let mut data = &chunk.data[..];
        for run in chunk.runs {
            let (block, rest) = data.split_at(run.count as usize * BLOCK);
            let at = run.first as usize * BLOCK;
            copy[at..at + block.len()].copy_from_slice(block);
            data = rest;
        }
    }
    copy
}

#[test]
fn the_loser_becomes_a_copy_and_its_bundle_is_its_device() {
    for n in 0..2 {
        let (mut cluster, was) = split();
        cluster.call(n, json!({"command": "resolve", "victim": "b", "bundle": true}));
        cluster.wait_in_sync();
        let found = bundles(&cluster);
        assert_eq!(found.len(), 1, "{found:?}");
        let now = fs::read(cluster.backing(1)).unwrap();
        assert!(now != was);
        assert!(overlaid(&found[0], now) == was, "something of the loser is lost");
        cluster.assert_equal_copies();
    }
}

/// Starts b again, its bundles in a folder of that name.
fn restart(cluster: &mut Cluster, folder: &str) {
    if let Some(engine) = cluster.nodes[1].engine.take() {
        engine.stop().unwrap();
    }
    let mut spec = cluster.spec(1);
    spec["bundles"] = json!(cluster.directory.path().join(folder));
    let engine = Engine::start(&spec.to_string(), &cluster.nodes[1].listener).unwrap();
    cluster.nodes[1].engine = Some(engine);
}

/// The image of the loser's device, as an export of its bundle shows it; none if not all of it is known.
fn image(cluster: &Cluster) -> Option<Vec<u8>> {
    let bundle = cluster.directory.path().join("bundles/b");
    let bundle = fs::read_dir(bundle)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .next()
        .unwrap();
    let (socket, image) = (
        cluster.directory.path().join("x"),
        cluster.directory.path().join("image"),
    );
    cluster.engine(1).export_bundle(&bundle, &socket).unwrap();
    let copied = copy_image(&socket, &File::create(&image).unwrap());
    copied.ok().map(|_| fs::read(&image).unwrap())
}

#[test]
fn an_export_does_not_show_what_an_engine_with_its_bundles_elsewhere_changed() {
    let (mut cluster, was) = split();
    restart(&mut cluster, "bundles/b");
    cluster.call(0, json!({"command": "resolve", "victim": "b", "bundle": true}));
    cluster.wait_in_sync();
    restart(&mut cluster, "bundles/b");
    assert!(image(&cluster) == Some(was), "known over a stop");
    restart(&mut cluster, "elsewhere");
    cluster.wait_in_sync();
    let (mut nbd, _) = NbdClient::connect(&cluster.socket(0)).unwrap();
    nbd.write(12 * MIB, &noise(5, BLOCK), FUA);
    restart(&mut cluster, "bundles/b");
    assert!(image(&cluster).is_none());
}

#[test]
fn nothing_is_given_up_without_a_bundle_when_the_history_cannot_say_so() {
    let (mut cluster, was) = split();
    cluster.nodes[1].engine.take().unwrap().stop().unwrap();
    let history = cluster.directory.path().join("history.jsonl");
    fs::write(&history, vec![b'\n'; 2 << 20]).unwrap();
    // It is as long as it may be, and cannot be put aside: nothing can be appended.
    fs::create_dir(cluster.directory.path().join("history.jsonl.1")).unwrap();
    let mut spec = cluster.spec(1);
    spec["history"] = json!(history);
    let engine = Engine::start(&spec.to_string(), &cluster.nodes[1].listener).unwrap();
    cluster.nodes[1].engine = Some(engine);
    let command = json!({"command": "resolve", "victim": "b", "bundle": false});
    let failed = cluster.engine(0).call(&command.to_string()).unwrap_err();
    assert!(failed.message.contains("could not be recorded"), "{failed:?}");
    assert!(fs::read(cluster.backing(1)).unwrap() == was);
    // With room for it, it goes through.
    fs::remove_dir(cluster.directory.path().join("history.jsonl.1")).unwrap();
    cluster.call(0, json!({"command": "resolve", "victim": "b", "bundle": false}));
    cluster.wait_in_sync();
    let text = fs::read_to_string(&history).unwrap();
    assert!(text.contains("split_brain.discarding") && text.contains("\"bundle\":\"none\""));
}

#[test]
fn a_primary_and_a_copy_that_cannot_be_saved_are_kept() {
    let (cluster, was) = split();
    for n in 0..2 {
        let command = json!({"command": "resolve", "victim": "a", "bundle": true});
        let refused = cluster.engine(n).call(&command.to_string()).unwrap_err();
        assert_eq!(refused.kind.name(), "unsafe", "{refused:?}");
    }
    // Where the bundles go is a file.
    fs::write(cluster.directory.path().join("bundles"), b"").unwrap();
    for n in 0..2 {
        let command = json!({"command": "resolve", "victim": "b", "bundle": true});
        let failed = cluster.engine(n).call(&command.to_string()).unwrap_err();
        assert_eq!(failed.kind.name(), "failed", "{failed:?}");
        assert!(failed.message.contains("could not be saved"), "{failed:?}");
        assert!(fs::read(cluster.backing(1)).unwrap() == was);
        // The other node hears a moment later that it came to nothing.
        cluster.wait(1 - n, "done with it", |status| {
            status["peers"][0]["resolving"].is_null()
        });
    }
    cluster.call(0, json!({"command": "resolve", "victim": "b", "bundle": false}));
    cluster.wait_in_sync();
}
