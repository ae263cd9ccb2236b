//! Reads denials from the ring buffer.
//!
//! The kernel doesn't wake anybody for one; the caller drains on a timer.

use std::net::{IpAddr, SocketAddr};

use mesh_common::event::{Counter, Event};

use super::maps::{Maps, lock};

/// One refused `connect()`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// Label of the counter that counted it.
    pub reason: &'static str,
    /// Where the caller wanted to go.
    pub destination: SocketAddr,
    /// Cookie of the namespace that it called from.
    pub netns: u64,
    /// Its cgroup.
    pub cgroup: u64,
    /// Its process.
    pub tgid: u32,
    /// Its user.
    pub uid: u32,
    /// Its command.
    pub comm: String,
}

impl Maps {
    /// Takes all denials that wait in the ring buffer.
    pub fn denials(&self) -> Vec<Denial> {
        let mut ring = lock(&self.events);
        let mut denials = Vec::new();
        while let Some(record) = ring.next() {
            denials.extend(parse(&record));
        }
        denials
    }
}

/// Fields by offset, not by cast: the record comes unaligned, and from a program that may be older.
fn parse(record: &[u8]) -> Option<Denial> {
    if record.len() != size_of::<Event>() {
        return None;
    }
    let half = |at: usize| Some(u16::from_ne_bytes(record.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?));
    const FACTS: usize = std::mem::offset_of!(Event, facts);
    let (_, reason) = *Counter::ALL.get(usize::try_from(word(8)?).ok()?)?;
    let address: [u8; 16] = record.get(FACTS..FACTS + 16)?.try_into().ok()?;
    let comm = record.get(FACTS + 48..FACTS + 64)?;
    Some(Denial {
        reason,
        destination: SocketAddr::new(IpAddr::from(address).to_canonical(), half(FACTS + 32)?),
        netns: long(0)?,
        cgroup: long(FACTS + 24)?,
        tgid: word(FACTS + 40)?,
        uid: word(FACTS + 44)?,
        comm: String::from_utf8_lossy(comm).trim_end_matches('\0').to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_common::conn::SockFacts;
    use std::mem::offset_of;

    #[test]
    fn a_record_is_read_by_the_offsets_of_its_fields() {
        assert_eq!((offset_of!(Event, counter), offset_of!(SockFacts, cgroup)), (8, 24));
        assert_eq!((offset_of!(SockFacts, port), offset_of!(SockFacts, tgid)), (32, 40));
        assert_eq!((offset_of!(SockFacts, uid), offset_of!(SockFacts, comm)), (44, 48));
        let mut record = vec![0_u8; size_of::<Event>()];
        record[0] = 9;
        record[8] = 2;
        record[16 + 10..16 + 16].copy_from_slice(&[0xff, 0xff, 10, 1, 2, 3]);
        record[16 + 32..16 + 34].copy_from_slice(&80_u16.to_ne_bytes());
        record[16 + 48..16 + 52].copy_from_slice(b"curl");
        let denial = parse(&record).unwrap();
        assert_eq!((denial.reason, denial.netns), ("connect_no_address", 9));
        assert_eq!(denial.destination.to_string(), "10.1.2.3:80");
        assert_eq!(denial.comm, "curl");
        assert_eq!(parse(&record[..40]), None);
    }
}
