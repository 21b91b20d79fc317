//! Names of service ids: how a [`PortId`] is written into the service table, so that a restart finds its id again.

use svc_common::tables::ServiceRecord;

use crate::model::Family;
use crate::plan::PortId;

/// What a service record says, as a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    text: Box<str>,
    protocol: u8,
    family: u8,
}

impl Name {
    pub(super) fn of(id: &PortId) -> Self {
        let mut text = format!("{}:{}", id.service, id.port);
        if text.len() > ServiceRecord::NAME {
            // Longer than the API server permits today. The end gives way to a hash, so that names stay distinct.
            let hash = text
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            let room = (0..=ServiceRecord::NAME - 17).rfind(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(room);
            text.push_str(&format!("~{hash:016x}"));
        }
        let family = match id.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        Self { text: text.into(), protocol: id.protocol as u8, family }
    }

    /// `None` if the record is free or no text.
    pub(super) fn read(record: &ServiceRecord) -> Option<Self> {
        let end = record.name.iter().position(|byte| *byte == 0).unwrap_or(record.name.len());
        let text = std::str::from_utf8(&record.name[..end]).ok().filter(|text| !text.is_empty())?;
        matches!(record.family, 4 | 6).then(|| Self {
            text: text.into(),
            protocol: record.protocol,
            family: record.family,
        })
    }

    pub(super) fn record(&self) -> ServiceRecord {
        let mut name = [0; ServiceRecord::NAME];
        for (byte, text) in name.iter_mut().zip(self.text.bytes()) {
            *byte = text;
        }
        ServiceRecord { name, protocol: self.protocol, family: self.family, zero: 0, reserved: 0 }
    }

    pub(super) fn family(&self) -> Family {
        if self.family == 4 { Family::V4 } else { Family::V6 }
    }
}

/// The record of a free service id.
pub(super) fn free() -> ServiceRecord {
    ServiceRecord { name: [0; ServiceRecord::NAME], protocol: 0, family: 0, zero: 0, reserved: 0 }
}

#[cfg(test)]
mod tests {
    use crate::model::{ObjectKey, Protocol};

    use super::*;

    fn id(service: &str, port: &str) -> PortId {
        PortId {
            service: ObjectKey::new("ns", service),
            port: port.into(),
            protocol: Protocol::Udp,
            family: Family::V6,
        }
    }

    #[test]
    fn records_keep_names_apart() {
        let name = Name::of(&id("dns", "udp"));
        let record = name.record();
        assert!(record.name.starts_with(b"ns/dns:udp\0"));
        assert_eq!(Name::read(&record), Some(name));
        assert_eq!(Name::read(&free()), None);
    }

    #[test]
    fn overlong_names_stay_distinct() {
        let long = "x".repeat(200);
        let (one, two) = (Name::of(&id(&long, "a")), Name::of(&id(&long, "b")));
        assert_ne!(one, two);
        assert_eq!(Name::read(&one.record()), Some(one));
    }
}
