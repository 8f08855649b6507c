"""All arrays of this node, from sysfs, the superblocks and mdadm.conf together."""

from __future__ import annotations

from pathlib import Path

from blockpair.errors import BlockpairError, ErrorKind
from blockpair.raid import conf, mdadm, sysfs
from blockpair.raid.model import Array
from blockpair.raid.sysfs import Identity


class Inventory:
    """Looks at the arrays; asks mdadm once for each, as long as it is there."""

    def __init__(self) -> None:
        self._known: dict[str, Identity] = {}

    def arrays(self) -> dict[str, Array]:
        """The arrays by UUID. Raises `BlockpairError` if mdadm or its file cannot be read."""
        names = sysfs.array_names()
        self._known = {name: found for name, found in self._known.items() if name in names}
        groups = self._groups()
        found = {}
        for name in names:
            identity = self._identity(name)
            if identity is None:
                continue
            array = sysfs.read_array(name, identity, group=groups.get(identity.uuid), place_of=sysfs.place_of)
            if array is not None:
                found[array.uuid] = array
        return found

    def _identity(self, name: str) -> Identity | None:
        """None for an array that is not assembled yet, or has just gone."""
        if name not in self._known:
            try:
                told = mdadm.detail(f"/dev/{name}")
            except BlockpairError:
                if not sysfs.running(name):
                    return None
                raise
            if "MD_UUID" not in told:
                return None
            stable = _stable_name(name) or mdadm.array_name(told) or name
            self._known[name] = Identity(told["MD_UUID"].lower(), stable)
        return self._known[name]

    def _groups(self) -> dict[str, str]:
        path = conf.place()
        try:
            return conf.groups(conf.read(path))
        except OSError as error:
            raise BlockpairError(
                ErrorKind.IO, f"{path} cannot be read: {error.strerror}", "check its mode; be root"
            ) from None

    def find(self, name: str) -> Array:
        """The array of that name, path, kernel's name or UUID. Raises `BlockpairError`."""
        arrays = self.arrays().values()
        wanted = name.removeprefix("/dev/md/").removeprefix("/dev/")
        for array in arrays:
            if wanted in (array.name, array.device, array.uuid):
                return array
        known = ", ".join(sorted(array.name for array in arrays))
        raise BlockpairError(
            ErrorKind.NOT_FOUND,
            f"there is no array {name!r} on this node",
            f"the arrays here are: {known}" if known else "make one: `blockpair raid create --help`",
        )


def _stable_name(device: str, folder: Path = Path("/dev/md")) -> str | None:
    """The name below /dev/md that leads to the device."""
    try:
        links = sorted(folder.iterdir())
    except OSError:
        return None
    return next((link.name for link in links if link.resolve().name == device), None)
