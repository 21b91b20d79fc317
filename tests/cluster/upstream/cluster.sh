#!/bin/bash
# A Kubernetes cluster of upstream's own programs in network namespaces, a service proxy on each node, and upstream's own
# tests of services against it; it is taken away at the end. `cargo xtask upstream` builds what it needs and calls it.
# usage: cluster.sh svc|kube-proxy FOCUS SKIP PROCESSES [ARGUMENT OF THE PROXY...]
set -eu
proxy=$1 focus=$2 skip=$3 processes=$4
shift 4
: "${SVC_CLUSTER_TOOLS:?}" "${SVC_CLUSTER_ETCD:?}" "${SVC_UPSTREAM_E2E:?}" "${SVC_UPSTREAM_NODE:?}" "${SVC_UPSTREAM_DNS:?}"
: "${SVC_UPSTREAM_IMAGES:?}" "${SVC_AGENT:?}" "${SVC_UPSTREAM_REPORT:?}"
here=$(dirname "$(readlink -f "$0")")
nodes="1 2" id=upstream-$$ pods4=10.244.0.0/16 pods6=fd00:10:244::/48 control=192.168.77.10
# Of upstream's test of external IPs. kube-proxy captures each, svc those that it is told.
external=203.0.113.0/24
work=$(mktemp -d "${TMPDIR:-/tmp}/svc-upstream.XXXXXX")
running=() groups=()

ns() { nsenter --net="/run/netns/$id-$1" "${@:2}"; }
# Into all namespaces of a node.
on() { nsenter --target "$(cat "$work/$1/first")" --mount --net --pid --uts --ipc --cgroup "${@:2}"; }
kubectl() { ns control "$SVC_UPSTREAM_E2E/kubectl" --kubeconfig="$work/admin.kubeconfig" "$@"; }
background() { # LOG COMMAND...
    local log=$1
    shift
    "$@" > "$work/$log.log" 2>&1 < /dev/null &
    running+=($!)
}
# A condition, tried again for as long as a busy machine may take.
await() { # SECONDS COMMAND...
    local deadline=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || { echo "not within its time: $*; logs: $SVC_UPSTREAM_REPORT" >&2; return 1; }
        sleep 0.2
    done
}

# Nothing stays: the processes of a node end with its first one.
away() {
    local status=$?
    trap - EXIT INT TERM
    # The shell would name each that it has killed.
    exec 2> /dev/null
    for node in $nodes; do kill -KILL "$(cat "$work/$node/first" 2> /dev/null)" 2> /dev/null || :; done
    [ ${#running[@]} -eq 0 ] || kill -KILL "${running[@]}" 2> /dev/null || :
    # What was started through a shell's function has the shell between.
    for end in control $nodes; do ip netns pids "$id-$end" 2> /dev/null; done | xargs --no-run-if-empty kill -KILL 2> /dev/null || :
    wait 2> /dev/null || :
    mkdir -p "$SVC_UPSTREAM_REPORT"
    cp "$work"/*.log "$SVC_UPSTREAM_REPORT" 2> /dev/null || :
    for node in $nodes; do for log in "$work/$node"/*.log; do cp "$log" "$SVC_UPSTREAM_REPORT/node-$node-${log##*/}"; done; done
    for group in "${groups[@]}"; do
        for try in 1 2 3 4 5; do find "$group" -depth -type d -exec rmdir {} + 2> /dev/null && break; sleep 0.5; done
    done
    for end in switch control $nodes; do ip netns delete "$id-$end" 2> /dev/null || :; done
    rm -rf "$work"
    exit $status
}
trap away EXIT
trap 'exit 1' INT TERM

# --- one segment, and on it the control plane and the nodes, which know each other's pods by routes
host() { # NAME LAST-PART
    ip netns add "$id-$1"
    ip -n "$id-$1" link set lo up
    ip -n "$id-$1" link add eth0 type veth peer name "port-$1" netns "$id-switch"
    ip -n "$id-switch" link set "port-$1" master bridge up
    ip -n "$id-$1" address add "192.168.77.$2/24" dev eth0
    ip -n "$id-$1" address add "fd77::$2/64" dev eth0 nodad
    ip -n "$id-$1" link set eth0 up
    ns "$1" sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
}
ip netns add "$id-switch"
ip -n "$id-switch" link add bridge type bridge
ip -n "$id-switch" link set bridge up
host control 10
for node in $nodes; do host "$node" "1$node"; done
for end in control $nodes; do
    # Where a client's addresses of no Service would go.
    [ $end = control ] || ip -n "$id-$end" route add default via $control
    for node in $nodes; do
        [ $end = $node ] || ip -n "$id-$end" route add "10.244.$node.0/24" via "192.168.77.1$node"
        [ $end = $node ] || ip -n "$id-$end" route add "fd00:10:244:$node::/64" via "fd77::1$node"
    done
done

# --- the control plane
openssl genrsa -out "$work/accounts.key" 2048 2> /dev/null
kubeconfig() { # USER FILE
    cat > "$2" <<END
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: $1}}]
clusters:
- name: c
  cluster:
    server: https://$control:6443
    certificate-authority: $work/certs/apiserver.crt
END
}
for user in admin controllers scheduler kube-proxy dns; do echo "$user,$user,$user,\"system:masters\""; done > "$work/tokens"
echo 'agent,system:serviceaccount:kube-system:svc-agent,agent,"system:serviceaccounts"' >> "$work/tokens"
for node in $nodes; do echo "node-$node,system:node:worker-$node,node-$node,\"system:nodes,system:masters\""; done >> "$work/tokens"
for user in admin controllers scheduler kube-proxy dns agent; do kubeconfig $user "$work/$user.kubeconfig"; done
background etcd ns control "$SVC_CLUSTER_ETCD/server" --data-dir="$work/etcd" --unsafe-no-fsync --log-level=error \
    --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
    --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
    --initial-cluster=default=http://127.0.0.1:2380
background kube-apiserver ns control "$SVC_CLUSTER_TOOLS/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
    --cert-dir="$work/certs" --token-auth-file="$work/tokens" --authorization-mode=RBAC --advertise-address=$control \
    --service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112 --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$work/accounts.key" --service-account-signing-key-file="$work/accounts.key" \
    --kubelet-preferred-address-types=InternalIP --allow-privileged=true --enable-priority-and-fairness=false
await 60 kubectl get --raw /readyz
background kube-controller-manager ns control "$SVC_CLUSTER_TOOLS/kube-controller-manager" --leader-elect=false \
    --kubeconfig="$work/controllers.kubeconfig" --root-ca-file="$work/certs/apiserver.crt" \
    --service-account-private-key-file="$work/accounts.key" --kube-api-qps=200 --kube-api-burst=400
background kube-scheduler ns control "$SVC_UPSTREAM_E2E/kube-scheduler" --leader-elect=false \
    --kubeconfig="$work/scheduler.kubeconfig" --kube-api-qps=200 --kube-api-burst=400

# --- nodes
# Control groups below the one that this runs in, then the namespaces, then the node's first process.
enter() { # NODE COMMAND...
    local node=$1 controller own group
    shift
    while IFS=: read -r _ controller own; do
        case $controller in
            '') controller=unified ;;
            name=systemd) controller=systemd ;;
        esac
        group=/sys/fs/cgroup/$controller${own%/}/$id-$node
        [ -d "/sys/fs/cgroup/$controller" ] || continue
        mkdir -p "$group"
        if [ "$controller" = cpuset ]; then
            cat /sys/fs/cgroup/cpuset/cpuset.cpus > "$group/cpuset.cpus"
            cat /sys/fs/cgroup/cpuset/cpuset.mems > "$group/cpuset.mems"
        fi
        echo "$BASHPID" > "$group/cgroup.procs"
    done < "$work/groups"
    exec nsenter --net="/run/netns/$id-$node" unshare --mount --pid --uts --ipc --cgroup --fork --kill-child "$@"
}
cp /proc/self/cgroup "$work/groups"
for node in $nodes; do
    folder=$work/$node
    mkdir "$folder"
    while IFS=: read -r _ controller own; do
        case $controller in '') controller=unified ;; name=systemd) controller=systemd ;; esac
        groups+=("/sys/fs/cgroup/$controller${own%/}/$id-$node")
    done < "$work/groups"
    kubeconfig "node-$node" "$folder/kubelet.kubeconfig"
    cat > "$folder/containerd.toml" <<END
version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri']
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/pause:1'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '$SVC_UPSTREAM_NODE/runc'
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['$SVC_UPSTREAM_NODE']
    conf_dir = '/etc/cni/net.d'
END
    cat > "$folder/cni.conflist" <<END
{"cniVersion": "1.0.0", "name": "net", "plugins": [
  {"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "/run/cni",
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    "ranges": [[{"subnet": "10.244.$node.0/24"}], [{"subnet": "fd00:10:244:$node::/64"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
END
    cat > "$folder/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
evictionHard: {nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", memory.available: 50Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
kubeAPIQPS: 100
kubeAPIBurst: 200
END
    background "node-$node" enter "$node" bash "$here/node.sh" "worker-$node" "192.168.77.1$node fd77::1$node" "$folder" \
        "$SVC_UPSTREAM_NODE" "$SVC_UPSTREAM_E2E" "$SVC_UPSTREAM_IMAGES"
    await 10 pgrep --parent "${running[-1]}" --full node.sh
    pgrep --parent "${running[-1]}" --full node.sh > "$folder/first"
done
for node in $nodes; do
    await 60 kubectl get node "worker-$node"
    kubectl wait --for=condition=Ready --timeout=60s "node/worker-$node"
done

# --- what is under test
case $proxy in
    svc)
        kubectl apply -f "$here/../../../deploy/kustomize/base/rbac.yaml"
        start() {
            on "$1" "$SVC_AGENT" run --kubeconfig "$work/agent.kubeconfig" --node "worker-$1" --cluster-cidr "$pods4,$pods6" \
                --cgroup /sys/fs/cgroup/unified --allow-external-ips $external "${@:2}"
        }
        ready=readyz
        ;;
    kube-proxy)
        start() {
            on "$1" "$SVC_CLUSTER_TOOLS/kube-proxy" --kubeconfig="$work/kube-proxy.kubeconfig" --proxy-mode=nftables \
                --hostname-override="worker-$1" --cluster-cidr="$pods4,$pods6" --conntrack-max-per-core=0 --conntrack-min=0 "${@:2}"
        }
        ready=healthz
        ;;
    *)
        echo "$proxy is no proxy: svc or kube-proxy" >&2
        exit 1
        ;;
esac
for node in $nodes; do background "$proxy-$node" start "$node" "$@"; done
for node in $nodes; do await 30 on "$node" curl -sf "http://127.0.0.1:10256/$ready"; done

# --- names: a CoreDNS beside the control plane, behind a Service
cat > "$work/Corefile" <<END
.:53 {
    bind $control
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig $work/dns.kubeconfig c
        pods insecure
        ttl 5
    }
    cache 5
}
END
background dns ns control "$SVC_UPSTREAM_DNS/dns" -conf "$work/Corefile"
kubectl apply -f - <<END
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$control], conditions: {ready: true}}]
END
await 30 on 1 dig +short +time=1 +tries=1 @10.96.0.10 kubernetes.default.svc.cluster.local
echo "the cluster stands after $SECONDS s; the tests run, their output goes to $SVC_UPSTREAM_REPORT/e2e.log"

# --- the tests
mkdir -p "$SVC_UPSTREAM_REPORT"
status=0
cd "$work"
ns control env PATH="$SVC_UPSTREAM_E2E:$PATH" "$SVC_UPSTREAM_E2E/ginkgo" --no-color --procs="$processes" --timeout=2h \
    --focus="$focus" --skip="$skip" "$SVC_UPSTREAM_E2E/e2e.test" -- -kubeconfig="$work/admin.kubeconfig" \
    -provider=skeleton -num-nodes=2 -node-os-distro=debian -dns-domain=cluster.local \
    > "$SVC_UPSTREAM_REPORT/e2e.log" 2>&1 || status=$?
grep -aE '^Ran |^(SUCCESS|FAIL)!|^  \[FAIL\] ' "$SVC_UPSTREAM_REPORT/e2e.log" || tail -n 20 "$SVC_UPSTREAM_REPORT/e2e.log"
exit $status
