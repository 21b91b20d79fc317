//! The budgets: one row a path. `bench` prints what it measured against them; nothing asserts on them, because
//! nanoseconds vary from machine to machine.

/// One budget row.
pub struct Budget {
    /// Name that a measurement refers to.
    pub id: &'static str,
    /// For people.
    pub path: &'static str,
    /// Must be at most this.
    pub budget: f64,
    /// Wanted.
    pub stretch: f64,
    /// Unit of all three figures.
    pub unit: &'static str,
}

const fn row(id: &'static str, path: &'static str, budget: f64, stretch: f64, unit: &'static str) -> Budget {
    Budget { id, path, budget, stretch, unit }
}

/// Every budget, in the order in which they are printed. Program times are net of an empty program of the same type.
pub const BUDGETS: &[Budget] = &[
    row("pass/tc-ingress/v4", "no Service's packet, TC ingress, IPv4", 45.0, 30.0, "ns"),
    row("pass/tc-ingress/v6", "no Service's packet, TC ingress, IPv6", 45.0, 30.0, "ns"),
    row("pass/tc-egress/v4", "no Service's packet, TC egress, IPv4", 45.0, 30.0, "ns"),
    row("pass/tc-egress/v6", "no Service's packet, TC egress, IPv6", 45.0, 30.0, "ns"),
    row("pass/xdp/v4", "no Service's packet, XDP, IPv4", 45.0, 30.0, "ns"),
    row("pass/xdp/v6", "no Service's packet, XDP, IPv6", 45.0, 30.0, "ns"),
    row("established/request/v4", "established ClusterIP, request, TC, IPv4", 90.0, 55.0, "ns"),
    row("established/reply/v4", "established ClusterIP, reply, TC, IPv4", 90.0, 55.0, "ns"),
    row("established/request/v6", "established ClusterIP, request, TC, IPv6", 110.0, 70.0, "ns"),
    row("established/reply/v6", "established ClusterIP, reply, TC, IPv6", 110.0, 70.0, "ns"),
    row("new/v4", "new connection, TC, IPv4", 500.0, 350.0, "ns"),
    row("new/v6", "new connection, TC, IPv6", 500.0, 350.0, "ns"),
    row("xdp/request/v4", "established node port, remote backend, XDP, request, IPv4", 120.0, 80.0, "ns"),
    row("xdp/reply/v4", "established node port, remote backend, XDP, reply, IPv4", 120.0, 80.0, "ns"),
    row("xdp/request/v6", "established node port, remote backend, XDP, request, IPv6", 120.0, 80.0, "ns"),
    row("xdp/reply/v6", "established node port, remote backend, XDP, reply, IPv6", 120.0, 80.0, "ns"),
    row("xdp/live", "live frame turned around at XDP, next to a bare XDP_TX", 153.0, 80.0, "ns"),
    row("socket/connect/v4", "connect(2) by the socket hooks, IPv4", 120.0, 60.0, "ns"),
    row("socket/connect/v6", "connect(2) by the socket hooks, IPv6", 120.0, 60.0, "ns"),
    row("growth/pass/tc-ingress", "growth to 100,000 services: no Service's, TC ingress", 10.0, 3.0, "%"),
    row("growth/pass/tc-egress", "growth to 100,000 services: no Service's, TC egress", 10.0, 3.0, "%"),
    row("growth/pass/xdp", "growth to 100,000 services: no Service's, XDP", 10.0, 3.0, "%"),
    row("growth/established/request", "growth to 100,000 services: established request", 10.0, 3.0, "%"),
    row("growth/established/reply", "growth to 100,000 services: established reply", 10.0, 3.0, "%"),
    row("growth/xdp/request", "growth to 100,000 services: XDP, request", 10.0, 3.0, "%"),
    row("growth/xdp/reply", "growth to 100,000 services: XDP, reply", 10.0, 3.0, "%"),
    row("growth/new", "growth to 100,000 services: new connection", 10.0, 3.0, "%"),
    row("scale/change", "one endpoint changed among 50,000 services, event to kernel, median", 5.0, 1.0, "ms"),
    row("scale/change-p99", "one endpoint changed among 50,000 services, event to kernel, p99", 5.0, 1.0, "ms"),
    row("scale/cold", "cold start, 5,000 services, 250,000 endpoints", 3.0, 1.0, "s"),
    row("scale/memory", "agent memory (RSS) at 10,000 services, 100,000 endpoints", 80.0, 50.0, "MiB"),
    row("e2e/connect", "connect-request-close, of direct, any number of services", 0.97, 0.99, "ratio, at least"),
    row("e2e/udp-established", "established UDP packet, over direct, both boundaries", 200.0, 150.0, "ns"),
    row("e2e/udp-first", "first UDP packet of a flow, over direct", 1000.0, 700.0, "ns"),
];

/// The row with this name.
pub fn find(id: &str) -> Option<&'static Budget> {
    BUDGETS.iter().find(|row| row.id == id)
}

impl Budget {
    /// Whether a figure keeps the budget. Ratios are better when greater, everything else when smaller.
    pub fn keeps(&self, figure: f64) -> bool {
        if self.unit.ends_with("at least") { figure >= self.budget } else { figure <= self.budget }
    }
}
