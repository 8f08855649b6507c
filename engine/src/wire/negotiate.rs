//! What two Hellos agree on, or why they cannot.

use super::message::{GoodbyeReason, Hello, Protocol};

/// What both sides use from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub version: u16,
    /// Offered by both; see [`feature`](super::feature).
    pub features: u64,
}

/// Compares both sides' first frames. Both sides come to the same verdict; its text reads the same on either.
///
/// # Errors
/// The reason for a Goodbye, and a text for administrators: what differs and what to do.
pub fn negotiate(mine: &Hello, theirs: &Hello) -> Result<Session, (GoodbyeReason, String)> {
    // First: with no common version the other fields may mean something else.
    let version = common_version(mine, theirs)?;
    same_pair(mine, theirs)?;
    same_device(mine, theirs)?;
    if mine.channel != theirs.channel {
        let text = format!(
            "resource {}: node {} opened channel {} and node {} channel {}; update blockpair so that both nodes \
             run the same release",
            mine.resource, mine.node, mine.channel, theirs.node, theirs.channel
        );
        return Err((GoodbyeReason::ProtocolError, text));
    }
    Ok(Session {
        version,
        features: mine.features & theirs.features,
    })
}

fn common_version(mine: &Hello, theirs: &Hello) -> Result<u16, (GoodbyeReason, String)> {
    for hello in [mine, theirs] {
        if hello.version_min > hello.version_max {
            let text = format!(
                "resource {}: node {} offers no wire version at all ({} to {}); reinstall blockpair there",
                hello.resource, hello.node, hello.version_min, hello.version_max
            );
            return Err((GoodbyeReason::Version, text));
        }
    }
    let newest = mine.version_max.min(theirs.version_max);
    if newest >= mine.version_min.max(theirs.version_min) {
        return Ok(newest);
    }
    let older = if mine.version_max < theirs.version_max {
        mine
    } else {
        theirs
    };
    let text = format!(
        "resource {}: node {} speaks wire {}, node {} {}: none in common; update blockpair on node {}",
        mine.resource,
        mine.node,
        version_range(mine),
        theirs.node,
        version_range(theirs),
        older.node
    );
    Err((GoodbyeReason::Version, text))
}

fn version_range(hello: &Hello) -> String {
    if hello.version_min == hello.version_max {
        format!("version {}", hello.version_max)
    } else {
        format!("versions {} to {}", hello.version_min, hello.version_max)
    }
}

/// The right resource, of the right node, talking to the right node.
fn same_pair(mine: &Hello, theirs: &Hello) -> Result<(), (GoodbyeReason, String)> {
    if mine.resource != theirs.resource {
        let text = format!(
            "node {} connected resource {} to resource {} of node {}; give the resource the same name on both nodes, \
             and check the peers' addresses",
            mine.node, mine.resource, theirs.resource, theirs.node
        );
        return Err((GoodbyeReason::UnknownResource, text));
    }
    if mine.node == theirs.node {
        let text = format!(
            "resource {}: both nodes call themselves {}; give each its own name under [node] in blockpair.toml, and \
             check that the peer's address is not this node's own",
            mine.resource, mine.node
        );
        return Err((GoodbyeReason::UnknownNode, text));
    }
    for (from, to) in [(mine, theirs), (theirs, mine)] {
        if from.peer != to.node {
            let text = format!(
                "resource {}: node {} expects its peer to be {} but reached node {}; correct the peer's name or \
                 address on node {}, or the name of node {}",
                mine.resource, from.node, from.peer, to.node, from.node, to.node
            );
            return Err((GoodbyeReason::UnknownNode, text));
        }
    }
    let none = [0; 16];
    if mine.resource_id != theirs.resource_id && mine.resource_id != none && theirs.resource_id != none {
        let text = format!(
            "resource {}: node {} has data of resource id {}, node {} of {}: two different resources of the same name; \
             check device and metadata on both nodes, or begin the copy anew whose data may be lost: \
             `blockpair create NAME --anew` there",
            mine.resource,
            mine.node,
            id_text(&mine.resource_id),
            theirs.node,
            id_text(&theirs.resource_id)
        );
        return Err((GoodbyeReason::OtherResource, text));
    }
    Ok(())
}

fn id_text(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

/// Equal geometry and settings.
fn same_device(mine: &Hello, theirs: &Hello) -> Result<(), (GoodbyeReason, String)> {
    if mine.data_size_bytes != theirs.data_size_bytes {
        let (smaller, larger) = if mine.data_size_bytes < theirs.data_size_bytes {
            (mine, theirs)
        } else {
            (theirs, mine)
        };
        let text = format!(
            "resource {}: node {} has {} bytes, node {} only {}: sizes must be equal; enlarge the device on node {} to \
             the size of the other, with the metadata as there (internal or not), and create the resource there again",
            mine.resource,
            larger.node,
            larger.data_size_bytes,
            smaller.node,
            smaller.data_size_bytes,
            smaller.node
        );
        return Err((GoodbyeReason::Size, text));
    }
    if mine.block_size_bytes != theirs.block_size_bytes {
        let text = format!(
            "resource {}: node {} was created with blocks of {} bytes, node {} with {}; create the resource again on \
             the node whose data may be lost, with the other's block size",
            mine.resource, mine.node, mine.block_size_bytes, theirs.node, theirs.block_size_bytes
        );
        return Err((GoodbyeReason::BlockSize, text));
    }
    if mine.protocol != theirs.protocol {
        let text = format!(
            "resource {}: node {} is set to protocol {}, node {} to {}; set the same protocol on both",
            mine.resource,
            mine.node,
            protocol_name(mine.protocol),
            theirs.node,
            protocol_name(theirs.protocol)
        );
        return Err((GoodbyeReason::Protocol, text));
    }
    if mine.policy != theirs.policy {
        let text = format!(
            "resource {}: node {} has the split brain policy {}, node {} {}; set the same policy on both",
            mine.resource,
            mine.node,
            mine.policy.name(),
            theirs.node,
            theirs.policy.name()
        );
        return Err((GoodbyeReason::Policy, text));
    }
    Ok(())
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::A => "A",
        Protocol::B => "B",
        Protocol::C => "C",
    }
}
