//! Tells a TCP SYN from other packets, for the programs that stop SYNs which no `connect()` announced.
//!
//! A pod with raw sockets writes every byte of these headers, so what can hide a SYN (fragments, extension headers) has
//! a class of its own. Generic over the bytes' source, so that the kernel's context and a test's array take one road.
use crate::{addr::IpKey, conn::ConnKey};

/// Bytes of a packet by offset; `None` past the end.
pub trait PacketBytes {
    /// One byte.
    fn byte(&self, offset: usize) -> Option<u8>;
    /// Two bytes, as a number in host order.
    fn half(&self, offset: usize) -> Option<u16>;
    /// Four bytes, in network order.
    fn word_be(&self, offset: usize) -> Option<u32>;
}

/// What a packet is to the SYN filters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PacketKind {
    /// Could carry a SYN that can't be seen here: the ports are 0.
    Hidden,
    /// Not TCP, or a segment that opens no connection: the key means nothing.
    Other,
    /// Asks for a connection.
    Syn,
}

/// A packet's kind, and its ends with netns 0.
///
/// Not an enum with the key inside: LLVM leaves the key of a variant without one unset, and the verifier refuses that.
pub type Packet = (PacketKind, ConnKey);

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const IPV6_HEADER: usize = 40;
const OTHER: Packet = (PacketKind::Other, ConnKey::UNSET);

/// Classifies the packet whose IP header starts at `start`.
#[inline(always)]
pub fn classify<P: PacketBytes>(packet: &P, start: usize) -> Packet {
    match packet.byte(start) {
        Some(first) if first >> 4 == 4 => classify_v4(packet, start, first),
        Some(first) if first >> 4 == 6 => classify_v6(packet, start),
        _ => OTHER,
    }
}

/// RFC 791 §3.1.
#[inline(always)]
fn classify_v4<P: PacketBytes>(packet: &P, start: usize, first: u8) -> Packet {
    let (Some(TCP), Some(source), Some(destination), Some(fragment)) =
        (packet.byte(start + 9), packet.word_be(start + 12), packet.word_be(start + 16), packet.half(start + 6))
    else {
        return OTHER;
    };
    let key = ConnKey { source: IpKey::from_v4(source), destination: IpKey::from_v4(destination), ..ConnKey::UNSET };
    // More fragments, or not the first: the flags may be in another one.
    if fragment & 0x3fff != 0 {
        return (PacketKind::Hidden, key);
    }
    classify_tcp(packet, start + usize::from(first & 0x0f) * 4, key)
}

/// RFC 8200 §3 and §4.
#[inline(always)]
fn classify_v6<P: PacketBytes>(packet: &P, start: usize) -> Packet {
    let (Some(next), Some(source), Some(destination)) =
        (packet.byte(start + 6), address_v6(packet, start + 8), address_v6(packet, start + 24))
    else {
        return OTHER;
    };
    let key = ConnKey { source, destination, ..ConnKey::UNSET };
    match next {
        TCP => classify_tcp(packet, start + IPV6_HEADER, key),
        // Hop-by-hop options, routing, fragment, destination options: a TCP header may follow.
        0 | 43 | 44 | 60 => (PacketKind::Hidden, key),
        _ => OTHER,
    }
}

#[inline(always)]
fn address_v6<P: PacketBytes>(packet: &P, start: usize) -> Option<IpKey> {
    let words =
        [packet.word_be(start)?, packet.word_be(start + 4)?, packet.word_be(start + 8)?, packet.word_be(start + 12)?];
    Some(IpKey::from_words(words))
}

/// RFC 9293 §3.1. A header that is cut short is hidden: the kernel would refuse it, a raw reader may not.
#[inline(always)]
fn classify_tcp<P: PacketBytes>(packet: &P, start: usize, key: ConnKey) -> Packet {
    let (Some(source_port), Some(destination_port), Some(flags)) =
        (packet.half(start), packet.half(start + 2), packet.byte(start + 13))
    else {
        return (PacketKind::Hidden, key);
    };
    match flags & (SYN | ACK) {
        SYN => (PacketKind::Syn, ConnKey { source_port, destination_port, ..key }),
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    impl PacketBytes for Vec<u8> {
        fn byte(&self, offset: usize) -> Option<u8> {
            self.get(offset).copied()
        }
        fn half(&self, offset: usize) -> Option<u16> {
            Some(u16::from_be_bytes(self.get(offset..offset + 2)?.try_into().unwrap()))
        }
        fn word_be(&self, offset: usize) -> Option<u32> {
            Some(u32::from_ne_bytes(self.get(offset..offset + 4)?.try_into().unwrap()))
        }
    }

    fn tcp(flags: u8) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[..4].copy_from_slice(&[0x9c, 0x40, 0x18, 0xeb]);
        header[13] = flags;
        header
    }

    fn v4(options: usize, fragment: u16, payload: Vec<u8>) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x45 + u8::try_from(options / 4).unwrap();
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = 6;
        packet[12..20].copy_from_slice(&[10, 1, 0, 2, 10, 2, 0, 2]);
        packet.extend(payload);
        packet
    }

    fn v6(next: u8, payload: Vec<u8>) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = next;
        packet[8] = 0xfd;
        packet[24] = 0xfe;
        packet.extend(payload);
        packet
    }

    fn key(source: &str, destination: &str) -> ConnKey {
        let ip = |text: &str| IpKey::from(text.parse::<IpAddr>().unwrap());
        ConnKey { source: ip(source), destination: ip(destination), ..ConnKey::default() }
    }

    #[test]
    fn a_syn_is_found_in_both_families_behind_options_and_behind_a_link_header() {
        let ports = |key: ConnKey| ConnKey { source_port: 40000, destination_port: 6379, ..key };
        let expected = (PacketKind::Syn, ports(key("10.1.0.2", "10.2.0.2")));
        assert_eq!(classify(&v4(0, 0x4000, tcp(0x02)), 0), expected);
        assert_eq!(classify(&v4(40, 0, tcp(0xc2)), 0), expected);
        let mut framed = vec![0; 14];
        framed.extend(v4(0, 0, tcp(0x02)));
        assert_eq!(classify(&framed, 14), expected);
        assert_eq!(classify(&v6(6, tcp(0x02)), 0), (PacketKind::Syn, ports(key("fd00::", "fe00::"))));
    }

    #[test]
    fn what_opens_no_connection_is_other() {
        for flags in [0x12, 0x10, 0x18, 0x11, 0x14] {
            assert_eq!(classify(&v4(0, 0, tcp(flags)), 0), OTHER);
        }
        let mut udp = v4(0, 0, tcp(0x02));
        udp[9] = 17;
        assert_eq!(classify(&udp, 0), OTHER);
        assert_eq!(classify(&v6(58, vec![0; 8]), 0), OTHER);
        assert_eq!(classify(&vec![], 0), OTHER);
    }

    #[test]
    fn what_can_hide_a_syn_is_hidden() {
        let v4_key = (PacketKind::Hidden, key("10.1.0.2", "10.2.0.2"));
        assert_eq!(classify(&v4(0, 0x2000, tcp(0x02)), 0), v4_key);
        assert_eq!(classify(&v4(0, 0x0001, tcp(0x10)), 0), v4_key);
        assert_eq!(classify(&v4(0, 0, vec![0; 8]), 0), v4_key);
        for next in [0, 43, 44, 60] {
            assert_eq!(classify(&v6(next, tcp(0x02)), 0), (PacketKind::Hidden, key("fd00::", "fe00::")));
        }
    }
}
