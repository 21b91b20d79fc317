//! The vocabulary between the applier and whoever carries its writes out.

use svc_common::net::{V4, V6};
use svc_common::tables::{Backend, Device, Frontend, FrontendKey, Prefix, ServiceRecord, Settings, SourcePrefix, name};

/// One change of one table. Arrays have no deletion: an element that is free holds its default.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// `BACKENDS_V4[id] = backend`.
    BackendV4(u32, Backend<V4>),
    /// `BACKENDS_V6[id] = backend`.
    BackendV6(u32, Backend<V6>),
    /// Consecutive elements of `SLOTS`, from this index on.
    Slots(u32, Box<[u32]>),
    /// A frontend or wildcard, set or deleted.
    FrontendV4(FrontendKey<V4>, Option<Frontend>),
    /// The same, IPv6.
    FrontendV6(FrontendKey<V6>, Option<Frontend>),
    /// A source range, added or deleted.
    SourceRangeV4(SourcePrefix<V4>, Presence),
    /// The same, IPv6.
    SourceRangeV6(SourcePrefix<V6>, Presence),
    /// A word of the address filter.
    Filter(u32, u64),
    /// `SERVICES[id] = record`.
    Service(u32, Box<ServiceRecord>),
    /// A prefix of pods.
    PodPrefixV4(Prefix<V4>, Presence),
    /// The same, IPv6.
    PodPrefixV6(Prefix<V6>, Presence),
    /// An address of this node.
    NodeAddressV4(V4, Presence),
    /// The same, IPv6.
    NodeAddressV6(V6, Presence),
    /// A device, set or deleted, by interface index.
    Device(u32, Option<Device>),
    /// The only settings value.
    Settings(Box<Settings>),
}

/// Whether a key that has no value of interest is in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Insert it, with value 1.
    Present,
    /// Delete it.
    Absent,
}

impl Write {
    /// Name of the table that it changes.
    pub fn table(&self) -> &'static str {
        match self {
            Self::BackendV4(..) => name::BACKENDS_V4,
            Self::BackendV6(..) => name::BACKENDS_V6,
            Self::Slots(..) => name::SLOTS,
            Self::FrontendV4(..) => name::FRONTENDS_V4,
            Self::FrontendV6(..) => name::FRONTENDS_V6,
            Self::SourceRangeV4(..) => name::SOURCE_RANGES_V4,
            Self::SourceRangeV6(..) => name::SOURCE_RANGES_V6,
            Self::Filter(..) => name::FILTER,
            Self::Service(..) => name::SERVICES,
            Self::PodPrefixV4(..) => name::POD_PREFIXES_V4,
            Self::PodPrefixV6(..) => name::POD_PREFIXES_V6,
            Self::NodeAddressV4(..) => name::NODE_ADDRESSES_V4,
            Self::NodeAddressV6(..) => name::NODE_ADDRESSES_V6,
            Self::Device(..) => name::DEVICES,
            Self::Settings(..) => name::SETTINGS,
        }
    }

    /// Whether it deletes a key.
    pub fn is_deletion(&self) -> bool {
        matches!(
            self,
            Self::FrontendV4(_, None)
                | Self::FrontendV6(_, None)
                | Self::SourceRangeV4(_, Presence::Absent)
                | Self::SourceRangeV6(_, Presence::Absent)
                | Self::PodPrefixV4(_, Presence::Absent)
                | Self::PodPrefixV6(_, Presence::Absent)
                | Self::NodeAddressV4(_, Presence::Absent)
                | Self::NodeAddressV6(_, Presence::Absent)
                | Self::Device(_, None)
        )
    }
}

/// Carries writes out: the kernel's maps, or tables in memory for tests.
pub trait Sink {
    /// Carries out all of `writes` in their order. Neighbours that concern the same table and are both deletions or
    /// both not may be done in one batch. Deleting what is not there is no error.
    ///
    /// After an error it is unknown how many were carried out; the caller reads the tables back and starts over.
    fn carry_out(&mut self, writes: &[Write]) -> anyhow::Result<()>;
}

/// What the Agent-written tables hold, read back on start. Array elements that hold their default may be left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Present {
    /// `FRONTENDS_V4`, wildcards included.
    pub frontends_v4: Vec<(FrontendKey<V4>, Frontend)>,
    /// `FRONTENDS_V6`.
    pub frontends_v6: Vec<(FrontendKey<V6>, Frontend)>,
    /// `BACKENDS_V4`.
    pub backends_v4: Vec<(u32, Backend<V4>)>,
    /// `BACKENDS_V6`.
    pub backends_v6: Vec<(u32, Backend<V6>)>,
    /// `SLOTS` from index 0 on; what is missing at the end is 0.
    pub slots: Vec<u32>,
    /// `SOURCE_RANGES_V4`.
    pub source_ranges_v4: Vec<SourcePrefix<V4>>,
    /// `SOURCE_RANGES_V6`.
    pub source_ranges_v6: Vec<SourcePrefix<V6>>,
    /// `FILTER` from word 0 on; what is missing at the end is 0.
    pub filter: Vec<u64>,
    /// `SERVICES`.
    pub services: Vec<(u32, ServiceRecord)>,
    /// `POD_PREFIXES_V4`.
    pub pod_prefixes_v4: Vec<Prefix<V4>>,
    /// `POD_PREFIXES_V6`.
    pub pod_prefixes_v6: Vec<Prefix<V6>>,
    /// `NODE_ADDRESSES_V4`.
    pub node_addresses_v4: Vec<V4>,
    /// `NODE_ADDRESSES_V6`.
    pub node_addresses_v6: Vec<V6>,
    /// `DEVICES`.
    pub devices: Vec<(u32, Device)>,
    /// `SETTINGS`.
    pub settings: Settings,
}

/// Up to which ids those of tables that cannot be read go; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Of service ports.
    pub services: u32,
    /// Of backends, by family.
    pub backends: [u32; 2],
}

/// How many entries the tables have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Frontends of one family, wildcards included.
    pub frontends: u32,
    /// Backends of one family.
    pub backends: u32,
    /// Slots.
    pub slots: u32,
    /// Source ranges of one family.
    pub source_ranges: u32,
    /// Service ids.
    pub services: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        use svc_common::tables::entries;
        Self {
            frontends: entries::FRONTENDS_V4,
            backends: entries::BACKENDS_V4,
            slots: entries::SLOTS,
            source_ranges: entries::SOURCE_RANGES_V4,
            services: entries::SERVICES,
        }
    }
}
