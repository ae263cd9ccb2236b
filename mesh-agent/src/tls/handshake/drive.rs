//! Drives one of rustls' unbuffered connections through its handshake, record by record.

use std::io;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{CommonState, ExtractedSecrets, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::HandshakeError;
use crate::tls::keys::KeySchedule;
use crate::tls::record::{Allowance, read_record};

/// Exchanges flights until the handshake is over. Reads nothing that comes after it.
pub(super) async fn drive<S, E>(stream: &mut S, connection: &mut E) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Endpoint,
{
    let (mut incoming, mut outgoing, mut allowance) = (vec![], vec![], Allowance::new());
    let mut unsent = None;
    loop {
        let step = advance(connection, &mut incoming, &mut outgoing);
        if !outgoing.is_empty() && !matches!(step, Ok(Step::Again)) {
            // Also when it failed: the peer is told why. And a peer that is gone may have said why before it went.
            unsent = stream.write_all(&outgoing).await.err();
            outgoing.clear();
            allowance.answered();
            step?;
            continue;
        }
        match (step?, unsent.take()) {
            (Step::Again | Step::Transmit, before) => unsent = before,
            (Step::Receive, before) => {
                let read = read_record(stream, &mut incoming, &mut allowance).await;
                read.map_err(|error| before.map_or_else(|| reading(error), HandshakeError::Io))?;
            }
            // A last flight (a ticket, say) that could not be sent: the connection is broken, as its next use will show.
            (Step::Done, _) if incoming.is_empty() => return Ok(()),
            // A record of the last flight had more in it than the flight.
            (Step::Done, _) => return Err(HandshakeError::Tls(rustls::Error::HandshakeNotComplete)),
        }
    }
}

/// What a handshake wants next.
enum Step {
    Again,
    Transmit,
    Receive,
    Done,
}

/// Takes one step; what is to be sent is appended to `outgoing`.
fn advance<E: Endpoint>(
    connection: &mut E,
    incoming: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
) -> Result<Step, HandshakeError> {
    let UnbufferedStatus { discard, state, .. } = connection.process(incoming);
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(|space| data.encode(space), outgoing);
            Ok(Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::Transmit)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Receive),
        // A server may write before it knows the client; we don't.
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        // Data or a goodbye inside of a handshake.
        Ok(_) => Err(rustls::Error::HandshakeNotComplete),
        Err(error) => Err(error),
    };
    incoming.drain(..discard);
    match step {
        Ok(Step::Done) if connection.common().is_handshaking() => Ok(Step::Receive),
        Ok(step) => Ok(step),
        Err(error) => {
            encode_alert(connection, incoming, outgoing);
            Err(HandshakeError::Tls(error))
        }
    }
}

/// What rustls wants the peer to know before the connection ends. `incoming` is what rustls has seen and not discarded; it
/// must not be looked at again.
fn encode_alert<E: Endpoint>(connection: &mut E, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>) {
    while connection.common().wants_write() {
        let UnbufferedStatus { discard, state, .. } = connection.process(incoming);
        let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { return };
        encode(|space| data.encode(space), outgoing);
        incoming.drain(..discard);
    }
}

fn encode(mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, outgoing: &mut Vec<u8>) {
    let before = outgoing.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = encode(&mut []) {
        outgoing.resize(before + required_size, 0);
        let written = encode(&mut outgoing[before..]).unwrap_or(0);
        outgoing.truncate(before + written);
    }
}

/// The two kinds of rustls connections, which share no trait.
pub(super) trait Endpoint {
    type Data;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn into_keys(self) -> Result<(ExtractedSecrets, KeySchedule), rustls::Error>;
}

impl Endpoint for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, KeySchedule), rustls::Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, KeySchedule::Client(connection)))
    }
}

impl Endpoint for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, KeySchedule), rustls::Error> {
        let (secrets, connection) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, KeySchedule::Server(connection)))
    }
}

fn reading(error: io::Error) -> HandshakeError {
    match error.kind() {
        io::ErrorKind::InvalidInput => {
            HandshakeError::Tls(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType))
        }
        _ => HandshakeError::Io(error),
    }
}
