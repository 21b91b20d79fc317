//! The single table of reasons: why a packet was translated, passed by, refused or dropped.
//!
//! One row is an enum variant, a counter, a metric label and a line of documentation. Programs count reasons and
//! turn them into verdicts in one place; tests assert that every reason is reached.

/// What a program does with a packet that ended with some [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Rewritten to an endpoint or back.
    Forward,
    /// Goes on as it came.
    Pass,
    /// The sender is told at once (RST or port unreachable).
    Reject,
    /// Silence.
    Drop,
}

macro_rules! reasons {
    ($($variant:ident = $number:literal, $outcome:ident, $label:literal, $text:literal;)+) => {
        /// Why a packet ended as it did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $text] $variant = $number,)+
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The verdict that follows.
            #[inline(always)]
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$variant => Outcome::$outcome,)+ }
            }

            /// Label of the metric.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// One line for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    Translated = 0, Forward, "translated", "Part of a Service connection; addresses rewritten.";
    Opened = 1, Forward, "opened", "First packet of a Service connection; endpoint chosen, addresses rewritten.";
    TurnedAround = 2, Forward, "turned_around", "Rewritten and sent on at XDP or TC without entering the stack.";
    NotService = 3, Pass, "not_service", "No Service has this destination and no connection is known.";
    NotIp = 4, Pass, "not_ip", "Neither IPv4 nor IPv6.";
    NotTransport = 5, Pass, "not_transport", "A protocol without ports that no Service can have.";
    NotUnicast = 6, Pass, "not_unicast", "Multicast or broadcast destination.";
    Malformed = 7, Pass, "malformed", "Headers that contradict themselves or end early; left to the stack.";
    TooManyExtensions = 8, Pass, "too_many_extensions", "More IPv6 extension headers or VLAN tags than are followed.";
    OwnAddress = 9, Pass, "own_address", "The address is bound on this node and no frontend has this port.";
    LeftToStack = 10, Pass, "left_to_stack", "XDP leaves the packet to TC and the stack.";
    NoNeighbour = 11, Pass, "no_neighbour", "XDP knows no next hop yet; the stack resolves it.";
    IcmpUnrelated = 12, Pass, "icmp_unrelated", "ICMP that quotes no known connection, or no error.";
    FragmentPassed = 13, Pass, "fragment_passed", "A later fragment of a datagram that is no Service's.";
    NoEndpoint = 14, Reject, "no_endpoint", "The Service has no usable endpoint.";
    UnknownPort = 15, Reject, "unknown_port", "The address is a ClusterIP, but no Service port is this one.";
    NoConnection = 16, Reject, "no_connection", "A TCP segment to a Service that opens no connection and belongs to none.";
    NoLocalEndpoint = 17, Drop, "no_local_endpoint", "Traffic policy Local and no endpoint on this node.";
    SourceRange = 18, Drop, "source_range", "The sender is outside loadBalancerSourceRanges.";
    UnallocatedAddress = 19, Drop, "unallocated_address", "Inside a ServiceCIDR, but no Service has this address.";
    NoSourcePort = 20, Drop, "no_source_port", "No free port for source translation was found.";
    TableFull = 21, Drop, "table_full", "The connection could not be stored.";
    FragmentUnknown = 22, Drop, "fragment_unknown", "A later fragment to a Service whose first was not seen, and no room to wait for it.";
    StaleBackend = 23, Drop, "stale_backend", "The chosen slot pointed to no backend: a table was being changed by force.";
    CannotRewrite = 24, Drop, "cannot_rewrite", "The packet cannot be changed: the kernel refuses, or it is a piece of an SCTP packet whose ports change.";
    SocketTranslated = 25, Forward, "socket_translated", "Destination of a socket call replaced by an endpoint.";
    SocketPassed = 26, Pass, "socket_passed", "A socket call to an address that is no Service's.";
    SocketRefused = 27, Reject, "socket_refused", "A socket call to a Service without usable endpoint.";
    Transit = 28, Pass, "transit", "Part of a Service connection; nothing to rewrite at this hook.";
    EntryLost = 29, Drop, "entry_lost", "Between the boundaries of a Service connection whose entry was evicted.";
    FragmentHeld = 30, Drop, "fragment_held", "A fragment that came before its first and waits for it, or that first, which goes round once more with those that waited.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_are_dense_and_labels_are_distinct() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        let labels: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        assert!(Reason::ALL.len() < crate::tables::entries::REASONS as usize);
    }
}
