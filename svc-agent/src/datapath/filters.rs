//! TC programs where the kernel has no TCX (before 6.6): filters in the clsact qdisc of a device.
//!
//! Such a filter cannot be pinned and does not need it: it stays until it, its qdisc or its device is deleted, and its
//! program is replaced in place. It is known again by its handle and its name. A qdisc that is there already is used as it
//! is, and stays: whether somebody else counts on it cannot be known.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::links::Attached;
use super::netlink::{self, CREATE, DUMP, EXCLUSIVE, ROUTE, Request};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_QDISC: u16 = 36;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;

/// Attributes of qdiscs and filters, and those of a filter of kind `bpf` (`linux/rtnetlink.h`, `linux/pkt_cls.h`).
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
/// The program's own verdict counts.
const DIRECT_ACTION: u32 = 1;

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// All protocols, as the kernel has it in the low half of `tcm_info`.
const ANY_PROTOCOL: u32 = 0x0003u16.to_be() as u32;

/// Handle of our filters.
const HANDLE: u32 = 0x5c;
/// How many priorities are tried when strangers have the first ones.
const PRIORITIES: u32 = 16;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the device receives.
    Ingress,
    /// What it sends.
    Egress,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }

    /// As with TCX: after the programs of others on the way in, before them on the way out.
    fn first_priority(self) -> u32 {
        match self {
            Self::Ingress => 60_000,
            Self::Egress => 5,
        }
    }
}

/// A filter in a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The lower ones run first.
    pub priority: u32,
    /// Its number among those of its priority.
    pub handle: u32,
    /// `bpf`, `flower`, ...
    pub kind: String,
    /// The name under which a program was attached; empty for other kinds.
    pub name: String,
    /// Id of the program, 0 for other kinds.
    pub program: u32,
}

impl Filter {
    fn is(&self, name: &str) -> bool {
        self.handle == HANDLE && self.kind == "bpf" && self.name == name
    }
}

/// `struct tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, index, handle, parent, info].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// The filters of a device, in the order in which they run; none if it has no clsact qdisc.
pub fn list(index: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let answers = Request::new(GET_FILTER, DUMP, &tcmsg(index, 0, direction.parent(), 0)).ask(ROUTE)?;
    Ok(answers.iter().filter_map(|(kind, body)| (*kind == NEW_FILTER).then(|| filter(body)).flatten()).collect())
}

/// Whether a device has the filter with this name.
pub fn has(index: u32, direction: Direction, name: &str) -> io::Result<bool> {
    Ok(list(index, direction)?.iter().any(|filter| filter.is(name)))
}

/// A body of RTM_NEWTFILTER. The kernel also lists each priority by itself, with a handle of 0.
fn filter(body: &[u8]) -> Option<Filter> {
    let field = |index: usize| netlink::word(body.get(index * 4..)?).map(u32::from_ne_bytes);
    let (handle, info) = (field(2)?, field(4)?);
    let mut filter = Filter { priority: info >> 16, handle, kind: String::new(), name: String::new(), program: 0 };
    for (kind, value) in netlink::attributes(body.get(20..)?) {
        match kind {
            KIND => filter.kind = netlink::text(value),
            OPTIONS => {
                for (kind, value) in netlink::attributes(value) {
                    match kind {
                        BPF_NAME => filter.name = netlink::text(value),
                        BPF_ID => filter.program = netlink::word(value).map_or(0, u32::from_ne_bytes),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if filter.kind != "bpf" {
        (filter.name, filter.program) = (String::new(), 0);
    }
    (handle != 0).then_some(filter)
}

/// Puts a program on a device, in one step in place of its predecessor: no packet sees none or both.
pub fn put(index: u32, direction: Direction, program: BorrowedFd<'_>, name: &str) -> io::Result<Attached> {
    let present = list(index, direction)?;
    let old = present.iter().find(|filter| filter.is(name));
    let priority = match old {
        Some(old) => old.priority,
        None => {
            make_qdisc(index)?;
            free_priority(&present, direction).ok_or_else(|| io::Error::from_raw_os_error(libc::EEXIST))?
        }
    };
    let mut options = Vec::new();
    netlink::push(&mut options, BPF_FD, &program.as_raw_fd().to_ne_bytes());
    netlink::push(&mut options, BPF_NAME, format!("{name}\0").as_bytes());
    netlink::push(&mut options, BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    let place = tcmsg(index, HANDLE, direction.parent(), priority << 16 | ANY_PROTOCOL);
    let exclusive = if old.is_some() { 0 } else { EXCLUSIVE };
    Request::new(NEW_FILTER, CREATE | exclusive, &place)
        .attribute(KIND, b"bpf\0")
        .attribute(OPTIONS, &options)
        .ask(ROUTE)?;
    Ok(if old.is_some() { Attached::Replaced } else { Attached::New })
}

fn free_priority(present: &[Filter], direction: Direction) -> Option<u32> {
    let first = direction.first_priority();
    (first..first + PRIORITIES).find(|priority| present.iter().all(|filter| filter.priority != *priority))
}

fn make_qdisc(index: u32) -> io::Result<()> {
    let place = tcmsg(index, CLSACT_HANDLE, CLSACT, 0);
    match Request::new(NEW_QDISC, CREATE | EXCLUSIVE, &place).attribute(KIND, b"clsact\0").ask(ROUTE) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Takes the filter with this name away; `false` if there is none.
pub fn remove(index: u32, direction: Direction, name: &str) -> io::Result<bool> {
    let Some(old) = list(index, direction)?.into_iter().find(|filter| filter.is(name)) else { return Ok(false) };
    let place = tcmsg(index, HANDLE, direction.parent(), old.priority << 16 | ANY_PROTOCOL);
    Request::new(DELETE_FILTER, 0, &place).attribute(KIND, b"bpf\0").ask(ROUTE)?;
    Ok(true)
}

/// Where one of our filters is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the device.
    pub index: u32,
    /// Name of the device.
    pub device: String,
    /// Which of its hooks.
    pub direction: Direction,
    /// Name of the filter.
    pub name: String,
}

/// The filters with one of these names on all devices of this network namespace.
pub fn find(names: &[&str]) -> io::Result<Vec<Place>> {
    let mut found = Vec::new();
    for (index, device) in devices()? {
        for direction in Direction::BOTH {
            for filter in list(index, direction)? {
                if names.iter().any(|name| filter.is(name)) {
                    found.push(Place { index, device: device.clone(), direction, name: filter.name });
                }
            }
        }
    }
    Ok(found)
}

/// Index and name of every device.
fn devices() -> io::Result<Vec<(u32, String)>> {
    const NAME: u16 = 3;
    /// `struct ifinfomsg`: family, type, index, flags, change.
    const INFO: usize = 16;
    let answers = Request::new(GET_LINK, DUMP, &[0; INFO]).ask(ROUTE)?;
    let device = |body: &[u8]| {
        let index = u32::from_ne_bytes(netlink::word(body.get(4..)?)?);
        let name = netlink::attributes(body.get(INFO..)?).find(|(kind, _)| *kind == NAME)?.1;
        Some((index, netlink::text(name)))
    };
    Ok(answers.iter().filter_map(|(kind, body)| (*kind == NEW_LINK).then(|| device(body)).flatten()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(priority: u32) -> Filter {
        Filter { priority, handle: 1, kind: "bpf".into(), name: "other".into(), program: 7 }
    }

    #[test]
    fn a_priority_that_a_stranger_has_is_left_to_him() {
        assert_eq!(free_priority(&[], Direction::Egress), Some(5));
        assert_eq!(free_priority(&[stranger(5), stranger(7)], Direction::Egress), Some(6));
        let all: Vec<_> = (60_000..60_000 + PRIORITIES).map(stranger).collect();
        assert_eq!(free_priority(&all, Direction::Ingress), None);
    }

    #[test]
    fn filters_are_read_as_the_kernel_writes_them() {
        let mut options = Vec::new();
        netlink::push(&mut options, BPF_NAME, b"tc_egress\0");
        netlink::push(&mut options, BPF_ID, &42u32.to_ne_bytes());
        let mut body = tcmsg(3, HANDLE, Direction::Egress.parent(), 5 << 16 | ANY_PROTOCOL);
        netlink::push(&mut body, KIND, b"bpf\0");
        netlink::push(&mut body, OPTIONS, &options);
        let read = filter(&body).expect("a filter");
        assert_eq!((read.priority, read.program), (5, 42));
        assert!(read.is("tc_egress") && !read.is("tc_ingress"));
        assert_eq!(filter(&tcmsg(3, 0, 0, 5 << 16)), None, "a priority by itself");
        assert_eq!(filter(&[0; 8]), None);
    }
}
