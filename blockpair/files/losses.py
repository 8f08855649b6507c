"""What this node would lose, looked up on its disks."""

from __future__ import annotations

from typing import Any

from blockpair import bridge
from blockpair.config.resource import ResourceConfig
from blockpair.errors import BlockpairError
from blockpair.files.runner import list_files
from blockpair.status.loss import SideLoss, loss


def side_loss(config: ResourceConfig, node: str, peer: str) -> SideLoss:
    """What ``node``, this one, changed that ``peer`` lacks. Whatever goes wrong is a part of the answer. May
    take minutes.
    """
    try:
        dump: dict[str, Any] = bridge.read_metadata(config, dump=True)
        found, ranges = loss(dump, peer)
    except BlockpairError as error:
        return SideLoss(node, problem=error.message)
    except KeyError:
        return SideLoss(node, problem=f"its metadata knows no peer {peer}")
    return SideLoss(
        node,
        loss=found,
        files=list_files(config.device, ranges),
        diverged_at_s=dump["diverged_at_s"] or None,
        changed_at_s=dump["changed_at_s"] or None,
    )
