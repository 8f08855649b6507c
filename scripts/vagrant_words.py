"""The lab of vagrant/Vagrantfile under libvirt: addresses, names, the host's commands that break it."""

from __future__ import annotations

# What the tour's words in braces mean there.
WORDS = {
    "alpha": "192.168.57.11",
    "beta": "192.168.57.12",
    "alpha_front": "192.168.56.11",
    "witness": "192.168.56.13",
    "vip": "192.168.56.100",
    "front": "eth1",
    "token": "TOKEN",
    **{f"disk{number}": f"/dev/lab/disk{number}" for number in range(1, 6)},
}
IMAGES = "/var/lib/libvirt/images"
_REPLICATION = 1


def domain(machine: str) -> str:
    """What libvirt calls the machine."""
    return f"blockpair-{machine}"


def hardware_address(network: int, machine: str) -> str:
    """Of a node's card. ``network``: 0 for the clients', 1 for replication."""
    last = int(WORDS[machine].rpartition(".")[2])
    return f"02:62:70:00:{network:02x}:{last:02x}"


def commands(act: str, machine: str, disk: int = 0, size_mib: int = 1024) -> list[list[str]]:
    """What the host does for an act of the tour. ``disk``: 1 to 5; ``size_mib``: of a new one."""
    virsh, name = "virsh", domain(machine)
    device = f"vd{'abcdef'[disk]}"
    image = f"{IMAGES}/{name}-new-{disk}.qcow2"
    both = ["--live", "--config"]
    match act:
        case "cut" | "mend":
            card = hardware_address(_REPLICATION, machine)
            return [[virsh, "domif-setlink", name, card, "down" if act == "cut" else "up"]]
        case "power-off":
            return [[virsh, "destroy", name]]
        case "power-on":
            return [[virsh, "start", name]]
        case "pull-disk":
            return [[virsh, "detach-disk", name, device, *both]]
        case "put-disk":
            shape = ["--driver", "qemu", "--subdriver", "qcow2", "--targetbus", "virtio"]
            serial = ["--serial", f"blockpair-{disk}"]
            return [
                ["qemu-img", "create", "-q", "-f", "qcow2", image, f"{size_mib}M"],
                [virsh, "attach-disk", name, image, device, *shape, *serial, *both],
            ]
    raise ValueError(f"no act {act!r}")
