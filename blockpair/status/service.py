"""What an administrator should know of the service of a resource. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from blockpair.status.report import Advice, ServiceStatus


def advice_on_service(name: str, service: ServiceStatus) -> Iterator[Advice]:
    """What is wrong or worth knowing of the service of the resource ``name``."""
    why = service.why or "no reason is known"
    if service.state == "failed":
        yield Advice("critical", "service-failed", f"the service is not up: {why}", service.remedy or "")
    elif service.state == "suspended":
        yield Advice(
            "warning",
            "service-suspended",
            f"the service has no addresses: {why}",
            service.remedy or "they come back by themselves once this node may write again",
        )
    elif service.held:
        yield Advice(
            "warning",
            "service-held",
            "this node is Primary without the service",
            f"bring it up: blockpair promote {name}",
        )
    if service.changed:
        yield Advice(
            "info",
            "service-changed",
            "the service was defined anew since it was brought up, and goes on as it was",
            f"move it, and it is taken up: blockpair switchover {name}; or demote and promote",
        )


def service_line(service: ServiceStatus) -> str:
    """One line of the screen."""
    told: str = service.state
    if service.held:
        told = "held back"
    if service.vips:
        told += f", has {', '.join(service.vips)}"
    if service.last is not None and service.state in ("up", "stopped"):
        told += f" ({service.last.wish} took {service.last.seconds:.2f} s)"
    return told


NO_DEVICE = "the resource has no block device here"


def remedy_for(name: str, wish: str, step: str, why: str = "") -> str:
    """What to do about a run that failed at ``step``, because of ``why``."""
    if why != NO_DEVICE:
        return _remedy_at(name, wish, step)
    return (
        f"have the kernel's nbd: modprobe nbd; why there is none: blockpair status {name}; "
        f"then: blockpair {_again(wish)} {name}"
    )


def _remedy_at(name: str, wish: str, step: str) -> str:
    unit = step.removeprefix("unit ")
    if unit != step:
        return f"see why: journalctl -u {unit}; then: blockpair {_again(wish)} {name}"
    match step.partition(" ")[0]:
        case "fsck":
            return (
                f"repair it without the service: blockpair promote {name} --without-service; then e2fsck on "
                f"the device that it names; then: blockpair promote {name}"
            )
        case "probe" | "vip" if wish in ("promote", "take-over", "follow"):
            return (
                "take the address away from whoever has it, or correct the interface (`ip link`, "
                "`service set`); where it was only late, see what keeps this machine busy; "
                f"then: blockpair promote {name}"
            )
        case "mount" if wish in ("demote", "hand-over"):
            return f"stop those programs, or have them killed: blockpair {_again(wish)} {name} --kill-users"
        case "health":
            return f"see why it ends: journalctl -u UNIT; then: blockpair {_again(wish)} {name}"
        case _:
            return f"put that right; then: blockpair {_again(wish)} {name}"


def _again(wish: str) -> str:
    """The command by which a wish is said."""
    said = {"hand-over": "switchover", "take-over": "promote", "follow": "promote", "stop": "demote"}
    return said.get(wish, wish)
