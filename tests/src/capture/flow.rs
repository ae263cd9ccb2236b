//! Connections put together again from their segments, so that a marker is found across segment borders.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::packet::{Packet, Tcp};

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    segments: BTreeMap<u32, Vec<u8>>,
    first_sequence: Option<u32>,
}

impl Stream {
    fn add(&mut self, tcp: Tcp, payload: &[u8]) {
        let first = *self.first_sequence.get_or_insert(tcp.sequence.wrapping_add(u32::from(tcp.syn)));
        if payload.is_empty() {
            return;
        }
        let offset = tcp.sequence.wrapping_add(u32::from(tcp.syn)).wrapping_sub(first);
        // A segment sent again may be longer than it was.
        let known = self.segments.entry(offset).or_default();
        if known.len() < payload.len() {
            *known = payload.to_vec();
        }
    }

    /// The bytes up to the first that was not seen.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (offset, segment) in &self.segments {
            let Some(overlap) = bytes.len().checked_sub(*offset as usize) else { break };
            bytes.extend_from_slice(segment.get(overlap..).unwrap_or_default());
        }
        bytes
    }
}

/// A connection on the wire.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Who opened it.
    pub client: SocketAddr,
    /// Whom it was opened to.
    pub server: SocketAddr,
    /// What the client sent.
    pub sent: Stream,
    /// What the server sent.
    pub received: Stream,
}

/// The connections whose opening SYN is among `packets`.
pub(super) fn flows<'a>(packets: impl Iterator<Item = &'a Packet>) -> Vec<Flow> {
    let mut flows: Vec<Flow> = Vec::new();
    // The newest connection between two addresses: source ports are used again.
    let mut newest: BTreeMap<(SocketAddr, SocketAddr), usize> = BTreeMap::new();
    for packet in packets {
        let Some(tcp) = packet.tcp else { continue };
        let forth = (packet.from, packet.to);
        if packet.opens_connection() {
            let start = tcp.sequence.wrapping_add(1);
            let again = newest.get(&forth).is_some_and(|index| flows[*index].sent.first_sequence == Some(start));
            if !again {
                newest.insert(forth, flows.len());
                let (sent, received) = <(Stream, Stream)>::default();
                flows.push(Flow { client: packet.from, server: packet.to, sent, received });
            }
        }
        if let Some(index) = newest.get(&forth) {
            flows[*index].sent.add(tcp, &packet.payload);
        } else if let Some(index) = newest.get(&(packet.to, packet.from)).filter(|_| !tcp.rst) {
            flows[*index].received.add(tcp, &packet.payload);
        }
    }
    flows
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "10.0.0.1:4000";
    const SERVER: &str = "10.0.0.2:80";

    fn packet(from: &str, to: &str, syn: bool, sequence: u32, payload: &[u8]) -> Packet {
        let tcp = Tcp { syn, ack: from == SERVER, sequence, ..Tcp::default() };
        Packet { from: from.parse().unwrap(), to: to.parse().unwrap(), tcp: Some(tcp), payload: payload.to_vec() }
    }

    #[test]
    fn a_stream_is_whole_whatever_the_order_of_its_segments() {
        let packets = [
            packet(CLIENT, SERVER, true, u32::MAX - 1, b""),
            packet(CLIENT, SERVER, false, 3, b"ker"),
            packet(CLIENT, SERVER, false, u32::MAX, b"mar"),
            packet(CLIENT, SERVER, false, u32::MAX, b"mar-"),
        ];
        assert_eq!(flows(packets.iter())[0].sent.bytes(), b"mar-ker");
    }

    #[test]
    fn a_gap_ends_what_is_known() {
        let packets = [
            packet(CLIENT, SERVER, true, 0, b""),
            packet(CLIENT, SERVER, false, 1, b"ab"),
            packet(CLIENT, SERVER, false, 9, b"yz"),
        ];
        assert_eq!(flows(packets.iter())[0].sent.bytes(), b"ab");
    }

    #[test]
    fn a_source_port_used_again_is_another_connection() {
        let packets = [
            packet(CLIENT, SERVER, true, 100, b""),
            packet(CLIENT, SERVER, true, 100, b""),
            packet(CLIENT, SERVER, false, 101, b"old"),
            packet(CLIENT, SERVER, true, 900, b""),
            packet(SERVER, CLIENT, true, 500, b""),
            packet(SERVER, CLIENT, false, 501, b"new"),
        ];
        let flows = flows(packets.iter());
        assert_eq!(flows.len(), 2);
        assert_eq!(flows[0].sent.bytes(), b"old");
        assert_eq!(flows[1].received.bytes(), b"new");
    }
}
