//! Records protected in this process, by rustls' ciphers.
//!
//! Holds no buffer while it waits: bytes are read onto the stack, and only a record that has not come whole, or one that
//! the socket does not take, is kept.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Incoming, gone};
use crate::sys::ktls::Way;
use crate::tls::error::SessionError;
use crate::tls::keys::TrafficKeys;
use crate::tls::record::{HEADER_BYTES, MAX_BODY, MAX_PLAINTEXT, content, whole};

/// Read at once: four full records, so that bulk takes few system calls.
const READ_BYTES: usize = 4 * (HEADER_BYTES + MAX_BODY);

/// Taken from a writer at once.
const WRITE_BYTES: usize = 4 * MAX_PLAINTEXT;

/// Both directions of a session.
pub(in crate::tls) struct Userspace {
    decrypter: Box<dyn MessageDecrypter>,
    encrypter: Box<dyn MessageEncrypter>,
    receive_sequence: u64,
    transmit_sequence: u64,
    /// Received and not decrypted.
    held: Vec<u8>,
    /// What came behind data that had to be given out first.
    next: Option<Result<Incoming, SessionError>>,
    /// Encrypted and not sent: whole records, the first perhaps in part.
    unsent: VecDeque<Vec<u8>>,
    /// How much of the first was sent.
    sent: usize,
}

impl std::fmt::Debug for Userspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Userspace")
    }
}

impl Userspace {
    pub(in crate::tls) fn new(
        suite: SupportedCipherSuite,
        transmit: TrafficKeys,
        receive: TrafficKeys,
    ) -> Result<Self, SessionError> {
        let (transmit_sequence, receive_sequence) = (transmit.sequence, receive.sequence);
        let (encrypter, decrypter) = (encrypter(suite, transmit)?, decrypter(suite, receive)?);
        let (held, next, unsent, sent) = (Vec::new(), None, VecDeque::new(), 0);
        Ok(Self { decrypter, encrypter, receive_sequence, transmit_sequence, held, next, unsent, sent })
    }

    pub(super) fn set_keys(
        &mut self,
        suite: SupportedCipherSuite,
        way: Way,
        keys: TrafficKeys,
    ) -> Result<(), SessionError> {
        match way {
            Way::Transmit => (self.transmit_sequence, self.encrypter) = (keys.sequence, encrypter(suite, keys)?),
            Way::Receive => (self.receive_sequence, self.decrypter) = (keys.sequence, decrypter(suite, keys)?),
        }
        Ok(())
    }

    pub(super) fn poll_receive(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<Incoming, SessionError>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(next);
        }
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        space.put_slice(&self.held);
        loop {
            if let Some((incoming, used)) = self.open(space.filled_mut(), buf)? {
                self.hold(&space.filled()[used..]);
                return Poll::Ready(Ok(incoming));
            }
            let before = space.filled().len();
            let read = Pin::new(&mut *stream).poll_read(cx, &mut space);
            if read.is_pending() && before > self.held.len() {
                self.hold(space.filled());
            }
            ready!(read).map_err(SessionError::Io)?;
            if space.filled().len() == before {
                return Poll::Ready(Ok(Incoming::Eof));
            }
        }
    }

    /// Decrypts what is there, as long as it is data and fits; `None` without a whole record. Returns what it is and how
    /// many bytes it took.
    fn open(&mut self, bytes: &mut [u8], buf: &mut ReadBuf<'_>) -> Result<Option<(Incoming, usize)>, SessionError> {
        let mut used = 0;
        while used == 0 || buf.remaining() >= MAX_PLAINTEXT {
            let (incoming, length) = match self.open_one(&mut bytes[used..], buf) {
                Ok(None) => break,
                Ok(Some((Incoming::Data, length))) => {
                    used += length;
                    continue;
                }
                Ok(Some((control, length))) => (Ok(control), length),
                // Nothing will be read behind it.
                Err(error) => (Err(error), bytes.len() - used),
            };
            if used == 0 {
                return incoming.map(|incoming| Some((incoming, length)));
            }
            used += length;
            self.next = Some(incoming);
            break;
        }
        Ok((used > 0).then_some((Incoming::Data, used)))
    }

    fn open_one(&mut self, bytes: &mut [u8], buf: &mut ReadBuf<'_>) -> Result<Option<(Incoming, usize)>, SessionError> {
        let Some(length) = whole(bytes).map_err(|_nonsense| SessionError::BadRecord)? else { return Ok(None) };
        let (content_type, plaintext) = self.decrypt(&mut bytes[..length])?;
        let incoming = match content_type {
            content::DATA => {
                buf.put_slice(plaintext);
                Incoming::Data
            }
            _ => Incoming::Control { content_type, bytes: plaintext.to_vec() },
        };
        Ok(Some((incoming, length)))
    }

    fn decrypt<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a [u8]), SessionError> {
        // Everything is encrypted by now, and shows as data (RFC 8446 §5.2).
        if record[0] != content::DATA {
            return Err(SessionError::Unexpected);
        }
        let body = &mut record[HEADER_BYTES..];
        let message = InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, body);
        let plain = self.decrypter.decrypt(message, self.receive_sequence).map_err(|error| match error {
            Error::DecryptError => SessionError::BadRecordMac,
            Error::PeerSentOversizedRecord => SessionError::BadRecord,
            error => SessionError::Tls(error),
        })?;
        self.receive_sequence += 1;
        Ok((u8::from(plain.typ), plain.payload))
    }

    /// Keeps `rest` for the next time, and no memory if there is none.
    fn hold(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.held = Vec::new();
        } else {
            self.held.clear();
            self.held.extend_from_slice(rest);
        }
    }

    pub(super) fn poll_send(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        content_type: u8,
        bytes: &[u8],
    ) -> Poll<Result<usize, SessionError>> {
        ready!(self.poll_flush(stream, cx))?;
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES)];
        for fragment in bytes.chunks(MAX_PLAINTEXT) {
            let payload = OutboundChunks::Single(fragment);
            let (typ, version) = (ContentType::from(content_type), ProtocolVersion::TLSv1_3);
            let message = OutboundPlainMessage { typ, version, payload };
            let record = self.encrypter.encrypt(message, self.transmit_sequence).map_err(SessionError::Tls)?;
            self.transmit_sequence += 1;
            self.unsent.push_back(record.encode());
        }
        // What the socket does not take now goes first the next time.
        if let Poll::Ready(Err(error)) = self.poll_flush(stream, cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    pub(super) fn poll_flush(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SessionError>> {
        while let Some(first) = self.unsent.front() {
            let count = if self.unsent.len() == 1 {
                ready!(Pin::new(&mut *stream).poll_write(cx, &first[self.sent..]))
            } else {
                let mut slices = [IoSlice::new(&[]); 8];
                for (slice, record) in slices.iter_mut().zip(&self.unsent) {
                    *slice = IoSlice::new(record);
                }
                slices[0] = IoSlice::new(&first[self.sent..]);
                let count = self.unsent.len().min(slices.len());
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]))
            };
            match count.map_err(SessionError::Io)? {
                0 => return Poll::Ready(Err(gone())),
                count => self.was_sent(count),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn was_sent(&mut self, count: usize) {
        self.sent += count;
        while let Some(first) = self.unsent.front()
            && self.sent >= first.len()
        {
            self.sent -= first.len();
            self.unsent.pop_front();
        }
        if self.unsent.is_empty() {
            self.unsent = VecDeque::new();
        }
    }
}

fn encrypter(suite: SupportedCipherSuite, keys: TrafficKeys) -> Result<Box<dyn MessageEncrypter>, SessionError> {
    let sequence = keys.sequence;
    let (algorithm, (key, iv)) = (algorithm(suite)?, parts(keys.secrets)?);
    let mut encrypter = algorithm.encrypter(key, iv);
    if sequence > 0 {
        // rustls has sent records with this key (tickets). aws-lc takes the first nonce that it sees for that of record 0,
        // and refuses those that seem to go back: so it gets to see record 0. What comes of it never leaves this function.
        let (typ, version, payload) =
            (ContentType::ApplicationData, ProtocolVersion::TLSv1_3, OutboundChunks::Single(&[]));
        encrypter.encrypt(OutboundPlainMessage { typ, version, payload }, 0).map_err(SessionError::Tls)?;
    }
    Ok(encrypter)
}

fn decrypter(suite: SupportedCipherSuite, keys: TrafficKeys) -> Result<Box<dyn MessageDecrypter>, SessionError> {
    let (algorithm, (key, iv)) = (algorithm(suite)?, parts(keys.secrets)?);
    Ok(algorithm.decrypter(key, iv))
}

fn algorithm(
    suite: SupportedCipherSuite,
) -> Result<&'static dyn rustls::crypto::cipher::Tls13AeadAlgorithm, SessionError> {
    suite.tls13().map(|suite| suite.aead_alg).ok_or_else(not_ours)
}

fn parts(
    secrets: ConnectionTrafficSecrets,
) -> Result<(rustls::crypto::cipher::AeadKey, rustls::crypto::cipher::Iv), SessionError> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(not_ours()),
    }
}

fn not_ours() -> SessionError {
    SessionError::Tls(Error::General("a cipher that no configuration of ours offers".to_owned()))
}
