//! Programs that the tests run, and the Debian packages that bring them.

/// (program, package). The lab's namespaces and clients, and the tools that tests look at a node with.
pub(crate) const RUN_TIME: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("bridge", "iproute2"),
    ("sysctl", "procps"),
    ("kill", "procps"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("wget", "wget"),
    ("iperf3", "iperf3"),
    ("dig", "bind9-dnsutils"),
    ("socat", "socat"),
    ("crun", "crun"),
    ("tar", "tar"),
    ("openssl", "openssl"),
];

/// What compiling the agent needs besides Rust: the TLS library has parts in C.
pub(crate) const BUILD: &[(&str, &str)] = &[("cc", "build-essential")];
