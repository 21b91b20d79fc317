//! Which of the kernel's announcements matter to who watches devices.

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;

type Announcement = NetlinkMessage<RouteNetlinkMessage>;

/// Of routes only the default ones are looked at; a node that speaks BGP has very many others.
pub(super) fn is_other_route(message: &Announcement) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) => {
            route.header.destination_prefix_length != 0
        }
        _ => false,
    }
}

/// About qdiscs and filters, which are no part of the picture.
pub(super) fn is_traffic_control(message: &Announcement) -> bool {
    use RouteNetlinkMessage as Message;
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return false };
    matches!(
        message,
        Message::NewQueueDiscipline(_)
            | Message::NewTrafficClass(_)
            | Message::NewTrafficFilter(_)
            | Message::NewTrafficChain(_)
    ) || is_removal(message)
}

/// Whether a qdisc or a filter was taken from a device.
pub(super) fn takes_filters_away(message: &Announcement) -> bool {
    matches!(&message.payload, NetlinkPayload::InnerMessage(message) if is_removal(message))
}

fn is_removal(message: &RouteNetlinkMessage) -> bool {
    use RouteNetlinkMessage as Message;
    matches!(
        message,
        Message::DelQueueDiscipline(_)
            | Message::DelTrafficClass(_)
            | Message::DelTrafficFilter(_)
            | Message::DelTrafficChain(_)
    )
}
