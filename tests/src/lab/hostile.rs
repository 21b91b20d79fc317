//! The hostile neighbour: what a strict CNI and a careful administrator put on a node.
//!
//! Reverse path filtering on all devices (the IPv4 switch is set when the node is built; IPv6 has none, so a rule does
//! it, as firewalld's does), a forward policy of drop, packets that conntrack calls invalid dropped, only pairs of real
//! addresses accepted, and what leaves the pods' ranges masqueraded, also on its way to a node. A packet that still carries a service address, or a
//! reply that conntrack does not know, does not pass.

use anyhow::{Context, Result};

use super::place::Place;
use super::tool;
use super::topology::{NODE_RANGES, OUTSIDE_RANGES, POD_RANGES};

/// Loads the rules on a node.
pub fn install(node: &Place) -> Result<()> {
    let mut forward = String::new();
    let mut leaving = String::new();
    for (family, index) in [("ip", 0), ("ip6", 1)] {
        let (pods, nodes, outside) = (POD_RANGES[index], NODE_RANGES[index], OUTSIDE_RANGES[index]);
        forward += &format!(
            "    {family} saddr {pods} {family} daddr {{ {pods}, {nodes}, {outside} }} accept\n\
             \x20   {family} saddr {nodes} {family} daddr {{ {pods}, {nodes} }} accept\n\
             \x20   {family} saddr {outside} {family} daddr {{ {pods}, {nodes} }} accept\n"
        );
        leaving += &format!("    {family} saddr {pods} {family} daddr != {pods} masquerade\n");
    }
    let ruleset = format!(
        "table inet hostile {{\n\
         \x20 chain prerouting {{\n\
         \x20   type filter hook prerouting priority filter;\n\
         \x20   icmpv6 type {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} accept\n\
         \x20   meta nfproto ipv6 fib saddr . iif oif missing counter drop\n\
         \x20 }}\n\
         \x20 chain input {{\n\
         \x20   type filter hook input priority filter;\n\
         \x20   ct state invalid counter drop\n\
         \x20 }}\n\
         \x20 chain forward {{\n\
         \x20   type filter hook forward priority filter; policy drop;\n\
         \x20   ct state invalid counter drop\n\
         \x20   ct state established,related accept\n\
         \x20   icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept comment \"bridged\"\n\
         {forward}\
         \x20   counter comment \"nobody's pair\"\n\
         \x20 }}\n\
         \x20 chain leaving {{\n\
         \x20   type nat hook postrouting priority srcnat;\n\
         {leaving}\
         \x20 }}\n\
         }}\n"
    );
    let mut command = node.command("nft");
    tool::output_with_input(command.args(["-f", "-"]), &ruleset)
        .map(drop)
        .with_context(|| format!("the hostile rules do not load:\n{ruleset}"))
}
