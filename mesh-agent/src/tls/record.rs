//! Reads a handshake record by record: a header, then exactly its body.
//!
//! So nothing that follows the handshake is ever in user space when the kernel takes over, and what an unauthenticated
//! peer may send is bounded.

use tokio::io::{AsyncRead, AsyncReadExt};

use std::io;

/// RFC 8446 §5.1: type, legacy version, length.
pub(super) const HEADER_BYTES: usize = 5;

/// What fits into one record as plaintext (RFC 8446 §5.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;

/// A record's body at most (RFC 8446 §5.2).
pub(super) const MAX_BODY: usize = MAX_PLAINTEXT + 256;

/// A ClientHello that takes more than this is refused, whoever sent it.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

/// What follows a hello: chain, signature, Finished; or a second hello.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;

/// Content types (RFC 8446 §5.1).
pub mod content {
    /// A relic, ignored in handshakes.
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// An alert.
    pub const ALERT: u8 = 21;
    /// Handshake messages, also those after the handshake.
    pub const HANDSHAKE: u8 = 22;
    /// Application data; on the wire also everything that is encrypted.
    pub const DATA: u8 = 23;
}

/// Why the bytes on a connection are no TLS records.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// Not a content type of TLS.
    #[error("content type {0} is not one of TLS")]
    Type(u8),
    /// Longer than a record may be.
    #[error("a record of {0} bytes is too long")]
    Length(usize),
}

/// How long the body is that follows this header.
pub fn body_length(header: [u8; HEADER_BYTES]) -> Result<usize, RecordError> {
    let [content_type, _, _, high, low] = header;
    if !(content::CHANGE_CIPHER_SPEC..=content::DATA).contains(&content_type) {
        return Err(RecordError::Type(content_type));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BODY { Err(RecordError::Length(length)) } else { Ok(length) }
}

/// Finds a whole record at the start of `bytes` and returns its length; `None`: there is more to come.
pub(super) fn whole(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = HEADER_BYTES + body_length(*header)?;
    Ok((bytes.len() >= length).then_some(length))
}

/// Counts what a peer sends before it is authenticated.
#[derive(Debug)]
pub(super) struct Allowance(usize);

impl Allowance {
    /// For a hello.
    pub(super) const fn new() -> Self {
        Self(MAX_HELLO_BYTES)
    }

    /// For what follows, once the first flight was answered.
    pub(super) fn answered(&mut self) {
        self.0 = MAX_CHAIN_BYTES;
    }

    fn take(&mut self, count: usize) -> io::Result<()> {
        let left = self.0.checked_sub(count);
        self.0 = left.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the handshake is too long"))?;
        Ok(())
    }
}

/// Appends the next record to `buffer`.
pub(super) async fn read_record(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    allowance: &mut Allowance,
) -> io::Result<()> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let length = body_length(header).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    allowance.take(HEADER_BYTES + length)?;
    buffer.extend_from_slice(&header);
    let body = buffer.len();
    buffer.resize(body + length, 0);
    stream.read_exact(&mut buffer[body..]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(sent: &[u8], answered: bool) -> Result<Vec<u8>, io::ErrorKind> {
        let (mut stream, mut buffer, mut allowance) = (sent, vec![], Allowance::new());
        if answered {
            allowance.answered();
        }
        loop {
            read_record(&mut stream, &mut buffer, &mut allowance).await.map_err(|error| error.kind())?;
            if stream.is_empty() {
                return Ok(buffer);
            }
        }
    }

    #[tokio::test]
    async fn a_record_is_read_and_not_a_byte_more() {
        let (mut stream, mut buffer) = (&b"\x16\x03\x01\x00\x02ab\x17\x03\x03"[..], vec![]);
        read_record(&mut stream, &mut buffer, &mut Allowance::new()).await.unwrap();
        assert_eq!((&*buffer, stream), (&b"\x16\x03\x01\x00\x02ab"[..], &b"\x17\x03\x03"[..]));
    }

    #[tokio::test]
    async fn what_is_no_record_is_refused_before_its_body() {
        assert_eq!(check(b"GET / HTTP/1.1\r\n\r\n", false).await, Err(io::ErrorKind::InvalidInput));
        assert_eq!(check(b"\x16\x03\x01\x41\x01", false).await, Err(io::ErrorKind::InvalidInput));
        assert_eq!(check(b"\x16\x03\x01\x00\x02a", false).await, Err(io::ErrorKind::UnexpectedEof));
    }

    #[tokio::test]
    async fn a_hello_and_a_chain_are_bounded() {
        let record = |count: u16| [&[0x16, 3, 3][..], &count.to_be_bytes(), &vec![0; usize::from(count)]].concat();
        let hello = u16::try_from(MAX_HELLO_BYTES).unwrap() - 5;
        assert!(check(&record(hello), false).await.is_ok());
        assert_eq!(check(&record(hello + 1), false).await, Err(io::ErrorKind::InvalidData));
        let chain = [record(hello), record(hello)].concat();
        assert!(check(&chain, true).await.is_ok());
        assert_eq!(check(&[chain, record(0)].concat(), true).await, Err(io::ErrorKind::InvalidData));
    }

    #[test]
    fn a_header_tells_where_the_record_ends() {
        assert_eq!(whole(b"\x17\x03\x03\x00\x01"), Ok(None));
        assert_eq!(whole(b"\x17\x03\x03\x00\x01xy"), Ok(Some(6)));
        assert_eq!(whole(b"\x17\x03\x03\x00"), Ok(None));
        assert_eq!(whole(b"\x18\x03\x03\x00\x01x"), Err(RecordError::Type(24)));
        assert_eq!(whole(b"\x17\x03\x03\xff\xff"), Err(RecordError::Length(65535)));
    }
}
