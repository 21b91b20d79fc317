//! What runs inside the lab's namespaces on behalf of a test: servers, clients, and the janitor.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

use svc_tests::cluster::faults;
use svc_tests::lab::run;
use svc_tests::traffic::{Ask, Report, Socket, client, datagram, load, server};

const USAGE: &str = "usage: lab-helper janitor ID | serve NAME ADDR:PORT.. | ask tcp|udp|http ADDR:PORT COUNT | \
                     transfer ADDR:PORT BYTES | hold ADDR:PORT CONNECTIONS | flow ADDR:PORT connected|reconnected|unconnected | \
                     dial ADDR:PORT | faults LISTEN UPSTREAM | echo ORDER ADDR:PORT.. | \
                     say ADDR:PORT BYTES ORDER | hear ADDR:PORT HOPS BYTES";

fn main() -> Result<()> {
    if std::env::args().next().is_some_and(|own| own.ends_with("/kube-proxy")) {
        // A copy that a test lets stand for kube-proxy: it is looked at, and ended.
        loop {
            std::thread::park();
        }
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let report = match words.as_slice() {
        ["janitor", id] => return run::janitor(id),
        ["serve", name, at @ ..] => {
            let at: Result<Vec<SocketAddr>, _> = at.iter().map(|at| at.parse()).collect();
            return server::serve(name, &at.context("an address and a port, ADDR:PORT")?);
        }
        ["dial", to] => return Ok(client::dial(to.parse()?)?),
        ["faults", listen, upstream] => return faults::proxy(listen.parse()?, upstream.parse()?),
        ["echo", order, at @ ..] => {
            let at: Result<Vec<SocketAddr>, _> = at.iter().map(|at| at.parse()).collect();
            return datagram::echo(&datagram::order(order)?, &at.context("an address and a port, ADDR:PORT")?);
        }
        ["say", to, bytes, order] => return datagram::say(to.parse()?, bytes.parse()?, &datagram::order(order)?),
        ["hear", to, hops, bytes] => return datagram::hear(to.parse()?, hops.parse()?, bytes.parse()?),
        ["ask", ask, to, count] => load::ask(Ask::parse(ask)?, to.parse()?, count.parse()?),
        ["transfer", to, bytes] => client::transfer(to.parse()?, bytes.parse()?),
        ["hold", to, connections] => load::hold(to.parse()?, connections.parse()?),
        ["flow", to, how] => load::flow(to.parse()?, Socket::parse(how)?),
        _ => bail!(USAGE),
    };
    print(&report)
}

fn print(report: &Report) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
