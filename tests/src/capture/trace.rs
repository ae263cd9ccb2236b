//! What was on the wire up to a moment, and the questions that claims ask of it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use super::flow::{Flow, flows};
use super::packet::Packet;
use super::tls::Hello;

/// A point in a capture.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mark(usize);

impl Mark {
    pub(super) fn new(frames: usize) -> Self {
        Self(frames)
    }
}

/// The recorded frames.
#[derive(Debug)]
pub struct Trace {
    frames: Vec<Vec<u8>>,
    /// With the frame's number.
    packets: Vec<(usize, Packet)>,
}

impl Trace {
    pub(super) fn parse(frames: Vec<Vec<u8>>) -> Result<Self> {
        let mut packets = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            if let Some(packet) = Packet::parse(frame).with_context(|| format!("frame {index}"))? {
                packets.push((index, packet));
            }
        }
        Ok(Self { frames, packets })
    }

    /// Only what came after `mark`.
    pub fn since(mut self, mark: Mark) -> Self {
        self.packets.retain(|(index, _)| *index >= mark.0);
        self.frames.drain(..mark.0.min(self.frames.len()));
        for (index, _) in &mut self.packets {
            *index -= mark.0;
        }
        self
    }

    /// Whether `marker` was on the wire: in any frame, or across the segments of any connection.
    pub fn contains(&self, marker: &str) -> bool {
        let has = |bytes: &[u8]| bytes.windows(marker.len()).any(|window| window == marker.as_bytes());
        self.frames.iter().any(|frame| has(frame))
            || self.flows().iter().any(|flow| has(&flow.sent.bytes()) || has(&flow.received.bytes()))
    }

    /// Every connection whose opening is recorded.
    pub fn flows(&self) -> Vec<Flow> {
        flows(self.packets.iter().map(|(_, packet)| packet))
    }

    /// The connections to `server`.
    pub fn flows_to(&self, server: SocketAddr) -> Vec<Flow> {
        self.flows().into_iter().filter(|flow| flow.server == server).collect()
    }

    /// The packets that tried to open a connection to `server`.
    pub fn syns_to(&self, server: SocketAddr) -> Vec<&Packet> {
        let packets = self.packets.iter().map(|(_, packet)| packet);
        packets.filter(|packet| packet.to == server && packet.opens_connection()).collect()
    }

    /// The datagrams to `receiver`.
    pub fn datagrams_to(&self, receiver: SocketAddr) -> Vec<&Packet> {
        let packets = self.packets.iter().map(|(_, packet)| packet);
        packets.filter(|packet| packet.to == receiver && packet.tcp.is_none()).collect()
    }

    /// Checks that there are connections to `server`, that each is TLS 1.3 throughout, and says what the last chose.
    pub fn all_tls13(&self, server: SocketAddr) -> Result<Hello> {
        let flows = self.flows_to(server);
        let mut chosen = None;
        for flow in &flows {
            chosen = Some(flow.tls13()?);
        }
        ensure!(!flows.is_empty(), "no connection to {server} on the wire");
        chosen.context("no connection")
    }
}
