"""What this node would lose, looked up in its engine and on its disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blockpair import bridge
from blockpair.bundles import SUFFIX
from blockpair.config.resource import ResourceConfig
from blockpair.errors import BlockpairError
from blockpair.files.runner import list_files
from blockpair.status.loss import SideLoss, live_loss, loss


def side_loss(
    config: ResourceConfig, node: str, peer: str, *, running: bridge.Running | None, bundles: Path
) -> SideLoss:
    """What ``node``, this one, changed that ``peer`` lacks: by its engine's marks, or, while it is down, by
    its metadata, which know some of it by extent only. Whatever goes wrong is a part of the answer. May take
    minutes. ``bundles``: the folder of the resource's bundles.
    """
    try:
        marks = None if running is None else running.marks(peer)
        live = None if marks is None else live_loss(marks, peer)
        if marks is not None and live is not None:
            (found, ranges), since, last = live, marks.diverged_at_s, marks.changed_at_s
        else:
            dump: dict[str, Any] = bridge.read_metadata(config, dump=True)
            found, ranges = loss(dump, peer)
            since, last = dump["diverged_at_s"], dump["changed_at_s"]
    except BlockpairError as error:
        return SideLoss(node, problem=error.message)
    except KeyError:
        return SideLoss(node, problem=f"its metadata knows no peer {peer}")
    return SideLoss(
        node,
        loss=found,
        files=list_files(config.device, ranges),
        diverged_at_s=since or None,
        changed_at_s=last or None,
        bundle=max(map(str, bundles.glob(f"*{SUFFIX}")), default=None),
    )
