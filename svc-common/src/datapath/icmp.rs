//! ICMP errors: which connection they are about, and how the packet and what it quotes are translated.
//!
//! An error travels against the packet that it quotes. It is translated at the same boundaries as a reply (or request)
//! on its way would be, outside and inside: the quoted packet becomes what its sender has sent.

use crate::net::Port;
use crate::parse::Packet;
use crate::tables::flow;
use crate::tuple::{End, Tuple};
use crate::verdict::Reason;

use super::env::{Env, Family, FlowEntry as _};
use super::step;
use super::turn::is_turned_at_all;

/// What an ICMP error becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorTranslation<A> {
    /// Source of the error.
    pub source: A,
    /// Destination of the error.
    pub destination: A,
    /// Tuple of the quoted packet.
    pub quoted: Tuple<A>,
    /// `step::*` bits.
    pub steps: u8,
}

/// An error about `quoted`, sent from `source` to `destination`, arrives by a device (`ingress`) or leaves by one.
/// `marked` as in [`super::egress`].
///
/// An error about a connection whose packets are turned around is translated at both ends at once, and asks for
/// [`step::TURN`]: connection tracking would not know what it is about.
#[inline(always)]
pub fn translate<A: Family, E: Env<A>>(
    env: &E,
    error: &Packet<A>,
    quoted: &Tuple<A>,
    ingress: bool,
    marked: bool,
) -> Result<ErrorTranslation<A>, Reason> {
    let (key, from_low) = quoted.key();
    let entry = env.flow(&key).ok_or(Reason::IcmpUnrelated)?.get();
    // Whether the quoted packet went from client to backend; the error then goes to the client.
    let request = (entry.flags & flow::LOW != 0) == from_low;
    let turned = ingress && is_turned_at_all(&entry);
    let host = entry.flags & flow::HOST_CLIENT != 0;
    let first = End::new(entry.first, entry.first_port);
    let second = End::new(entry.second, entry.second_port);
    let (source, destination) = (error.tuple.source.addr, error.tuple.destination.addr);
    let mut new = ErrorTranslation { source, destination, quoted: *quoted, steps: 0 };
    match (entry.role, request, ingress) {
        // The backend's side is unhappy with what the node has sent: to the client, whose packet it was.
        (flow::BACKEND, true, true) => {
            new.quoted.source = first;
            new.destination = first.addr;
            if host || turned {
                let client_port = if entry.client_port == Port::NONE { first.port } else { entry.client_port };
                new.quoted.source.port = client_port;
                new.quoted.destination = second;
                if source == quoted.destination.addr {
                    new.source = second.addr;
                }
            }
        }
        // The same without source translation, or on its way to the client: the client knows the service only.
        (flow::MIDDLE, true, _) if ingress == host => {
            new.quoted.destination = first;
            if entry.client_port != Port::NONE {
                new.quoted.source.port = entry.client_port;
            }
            if source == quoted.destination.addr {
                new.source = first.addr;
            }
        }
        // The client's side is unhappy with a reply: to the backend, which knows the client, or the node.
        (flow::CLIENT, false, true) => {
            new.quoted.source = first;
            new.destination = first.addr;
            if entry.client_port != Port::NONE {
                new.quoted.destination.port = entry.client_port;
            }
            if turned {
                new.quoted.destination = second;
                if source == quoted.destination.addr {
                    new.source = second.addr;
                }
            } else if entry.flags & flow::SNAT != 0 {
                new.steps = step::MARK;
            }
        }
        (flow::MIDDLE, false, false) if marked && entry.second_port != Port::NONE => {
            if source == quoted.destination.addr {
                new.source = second.addr;
            }
            new.quoted.destination = second;
            new.steps = step::UNMARK;
        }
        _ => return Err(Reason::Transit),
    }
    if turned {
        new.steps |= step::TURN;
    }
    Ok(new)
}
