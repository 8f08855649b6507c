#!/bin/bash
# First process of a lab guest. The host's / is this kernel's root, read-only (hostfs). An overlay with a tmpfs on top
# gives the guest its own writable copy of it, which a power cut empties; only the guest's disks keep anything.
#
# Then it carries out what the harness asks, a line a request, on the second console:
#     run ID          start LAB_SHARE/ID.sh in a process group of its own
#     signal PID NAME send a signal to the process group PID
# and answers there with 'ready RELEASE', 'pid ID PID' and 'done ID RC'. Output goes to files in the share, so that
# nothing a command or the kernel prints can be taken for an answer.
# The words of the kernel command line become variables: lab_addresses and so on; options are meant to be split.
# shellcheck disable=SC2154,SC2086
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb

own_root() {
    mount -t proc proc /proc
    mount -t tmpfs -o mode=755 own /run
    for word in $(</proc/cmdline); do
        case $word in lab_*=*) printf -v "${word%%=*}" %s "${word#*=}" ;; esac
    done
    modprobe -d "$lab_kernel" overlay
    mkdir /run/upper /run/work /run/root
    mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work root /run/root
    cd /run/root || exit
    mkdir -p lab/below lab/share proc dev/pts dev/shm lib/modules etc/blockpair
    pivot_root . lab/below
    # The host's own state must not show through: not its sockets, not its leases, not its resources. What the tests
    # need from below those folders (their virtual environment, the sources) is shown again, read-only.
    # One table and one call of mount, because each new process costs tens of milliseconds here.
    {
        echo "proc /proc proc defaults
            sys /sys sysfs defaults
            dev /dev devtmpfs defaults
            pts /dev/pts devpts defaults,x-mount.mkdir
            shm /dev/shm tmpfs mode=1777,x-mount.mkdir
            run /run tmpfs mode=755
            tmp /tmp tmpfs mode=1777
            state /var/lib tmpfs mode=755
            config /etc/blockpair tmpfs mode=755
            share /lab/share hostfs $lab_share
            modules /lib/modules hostfs ro,$lab_kernel/lib/modules"
        local IFS=:
        for folder in $lab_show; do echo "show $folder hostfs ro,$folder,x-mount.mkdir"; done
    } >/lab/fstab
    # -n: no table of mount's own below /run, which is mounted over in between
    mount -n -a -T /lab/fstab
    mkdir -p /run/lock /var/lib/blockpair
    # udev's part of /dev, which a shell needs for <(...) and the like
    ln -s /proc/self/fd /dev/fd
    ln -s fd/0 /dev/stdin
    ln -s fd/1 /dev/stdout
    ln -s fd/2 /dev/stderr
}

network() {
    echo "$lab_name" >/proc/sys/kernel/hostname
    ip link set lo up
    local card=0
    for address in ${lab_addresses//,/ }; do
        ip addr add "$address" dev "vec$card"
        ip link set "vec$card" up
        card=$((card + 1))
    done
}

carry_out() {
    set -m # the job below gets a process group of its own: a signal reaches the command and all its children
    cd /root || cd /
    bash "/lab/share/$1.sh" </dev/null >"/lab/share/$1.out" 2>"/lab/share/$1.err" 7>&- 8<&- &
    echo "pid $1 $!" >&7
    wait $!
    echo "done $1 $?" >&7
}

own_root
exec 7>/dev/tty1 8</dev/tty1
stty -F /dev/tty1 raw -echo
network
modprobe -a ${lab_modules//,/ }
echo 4 >/proc/sys/kernel/printk
export PATH="$lab_path:$PATH" PYTHONPATH="$lab_source" PYTHONDONTWRITEBYTECODE=1
echo "ready $(</proc/sys/kernel/osrelease)" >&7
while read -r request id argument <&8; do
    case $request in
        run) carry_out "$id" & ;;
        signal) kill -s "$argument" -- "-$id" ;;
    esac
done
