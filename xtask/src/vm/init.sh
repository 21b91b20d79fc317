#!/bin/busybox sh
# The first process of the machine. What is said on the second serial line is for xtask, all else for its log.
export PATH=/usr/bin:/bin HOME=/tmp TMPDIR=/tmp
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /run /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/netns
say() { echo "$*" > /dev/ttyS1; }
seconds() { cut -d. -f1 < /proc/uptime; }

while read -r module; do
    insmod "/modules/$module" || say "module $module does not load"
done < /modules/order
ip link set lo up
say "booted $(cat /proc/sys/kernel/osrelease)"

step() {
    name=$1
    shift
    began=$(seconds)
    echo "== $name"
    "$@" > /tmp/out 2>&1
    status=$?
    cat /tmp/out
    say "step $name $status $(($(seconds) - began))"
}

. /steps
say "end"
sync
poweroff -f
