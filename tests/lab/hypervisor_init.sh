#!/bin/bash
# The first process in libvirt's own namespaces (network, mounts, processes): starts its daemons, and ends with its standard input,
# whereupon the kernel ends all that runs here.
#   hypervisor_init.sh FOLDER    everything that libvirt writes is below FOLDER
set -euo pipefail
folder=$1
mount --make-rprivate /
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/lock /run/libvirt
ip link set lo up

cp -a /etc/libvirt "$folder/etc"
rm -rf "$folder/etc/qemu/networks/autostart"
cat >>"$folder/etc/qemu.conf" <<'CONF'
# All of it is in namespaces of its own already.
user = "root"
group = "root"
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
remember_owner = 0
CONF
mkdir -p "$folder"/lib/{images,boot,qemu,dnsmasq,network} "$folder/log/qemu" "$folder/cache"
mount --bind "$folder/etc" /etc/libvirt
mount --bind "$folder/lib" /var/lib/libvirt
mount --bind "$folder/log" /var/log/libvirt
mount --bind "$folder/cache" /var/cache/libvirt

dbus-daemon --system --fork
virtlogd -d
libvirtd -d
until virsh -q -c qemu:///system version >/dev/null 2>&1; do
    pidof libvirtd >/dev/null || {
        echo "libvirtd ended" >&2
        exit 1
    }
    sleep 0.2
done
echo ready
exec cat >/dev/null
