#!/bin/bash
# A node's first process, in namespaces of its own (net, mount, pid, uts, ipc, cgroup): containerd and a kubelet.
# usage: node.sh NAME "ADDRESS4 ADDRESS6" FOLDER TOOLS-OF-NODE TOOLS-OF-KUBERNETES IMAGES
set -eu
name=$1 addresses=$2 folder=$3 node_tools=$4 kubernetes_tools=$5 images=$6

mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /sys/fs/cgroup
for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir /sys/fs/cgroup/$controller
    mount -t cgroup -o $controller cgroup /sys/fs/cgroup/$controller
done
mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
mount -t bpf bpf /sys/fs/bpf
hostname "$name"

# What the node writes goes into its folder; containerd's own layers may not lie on an overlay.
for top in etc var opt; do
    mkdir -p "$folder/$top.upper" "$folder/$top.work"
    mount -t overlay -o "lowerdir=/$top,upperdir=$folder/$top.upper,workdir=$folder/$top.work" overlay /$top
done
mount -t tmpfs tmpfs /run
rm -rf /var/run
ln -s /run /var/run
for state in containerd kubelet; do
    mkdir -p "$folder/$state" /var/lib/$state
    mount --bind "$folder/$state" /var/lib/$state
done
mkdir -p /var/log/pods /var/log/containers /etc/cni/net.d /run/netns /run/sysctl
cp "$folder/cni.conflist" /etc/cni/net.d/10-net.conflist

# The kubelet would set these for the whole machine: it is shown what it wants to see.
while read -r file value; do
    copy=/run/sysctl/${file//\//_}
    echo "$value" > "$copy"
    mount --bind "$copy" "/proc/sys/$file"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
mount --make-rshared /

{
    echo "127.0.0.1 localhost"
    echo "::1 localhost"
    for address in $addresses; do echo "$address $name"; done
} > /etc/hosts
: > /etc/resolv.conf

run() { env -i PATH="$node_tools:$PATH" HOME=/root "$@"; }
run "$node_tools/containerd" --config "$folder/containerd.toml" > "$folder/containerd.log" 2>&1 &
containers() { run "$node_tools/ctr" -a /run/containerd/containerd.sock -n k8s.io "$@"; }
until containers version > /dev/null 2>&1; do sleep 0.1; done
for image in "$images"/*.tar; do containers images import --local "$image"; done > "$folder/images.log" 2>&1
run "$kubernetes_tools/kubelet" --kubeconfig="$folder/kubelet.kubeconfig" --config="$folder/kubelet.yaml" \
    --hostname-override="$name" --node-ip="${addresses/ /,}" > "$folder/kubelet.log" 2>&1 &
while :; do wait || :; done
