//! One frame of the wire, as far as a claim may look at it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// What a TCP header says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcp {
    /// Opens a connection.
    pub syn: bool,
    /// Acknowledges.
    pub ack: bool,
    /// Ends a direction.
    pub fin: bool,
    /// Breaks the connection.
    pub rst: bool,
    /// Sequence number.
    pub sequence: u32,
}

/// A TCP segment (`tcp` is set) or a UDP datagram.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// The TCP header.
    pub tcp: Option<Tcp>,
    /// The bytes inside.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Reads an Ethernet frame; `None` for what is neither TCP nor UDP.
    pub(super) fn parse(frame: &[u8]) -> Result<Option<Self>> {
        let sliced = SlicedPacket::from_ethernet(frame).context("read a frame")?;
        let Some((from, to)) = sliced.net.as_ref().and_then(addresses) else { return Ok(None) };
        let packet = match sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => Self {
                from: SocketAddr::new(from, tcp.source_port()),
                to: SocketAddr::new(to, tcp.destination_port()),
                tcp: Some(Tcp {
                    syn: tcp.syn(),
                    ack: tcp.ack(),
                    fin: tcp.fin(),
                    rst: tcp.rst(),
                    sequence: tcp.sequence_number(),
                }),
                payload: tcp.payload().to_vec(),
            },
            Some(TransportSlice::Udp(udp)) => Self {
                from: SocketAddr::new(from, udp.source_port()),
                to: SocketAddr::new(to, udp.destination_port()),
                tcp: None,
                payload: udp.payload().to_vec(),
            },
            _ => return Ok(None),
        };
        Ok(Some(packet))
    }

    /// Whether this is the first packet of a connection.
    pub fn opens_connection(&self) -> bool {
        self.tcp.is_some_and(|tcp| tcp.syn && !tcp.ack)
    }
}

fn addresses(net: &NetSlice<'_>) -> Option<(IpAddr, IpAddr)> {
    match net {
        NetSlice::Ipv4(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        NetSlice::Ipv6(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        NetSlice::Arp(_) => None,
    }
}
