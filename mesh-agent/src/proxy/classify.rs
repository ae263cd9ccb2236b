//! Tells mesh TLS from everything else on a connection's first bytes, for permissive mode.
//!
//! Reads no more than the ClientHello and gives every byte back, so that an application gets its own TLS, or its
//! plaintext, untouched. Never asks where the bytes come from.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls::record::MAX_HELLO_BYTES;
use crate::tls::{ALPN, Transport};

/// RFC 8446 §5.1: the content type of a handshake record.
const HANDSHAKE: u8 = 0x16;
/// RFC 8446 §5.1: type, version, length.
const HEADER_BYTES: usize = 5;
/// RFC 8446 §5.2: the longest record, which only an encrypted one may have.
const MAX_RECORD_BYTES: usize = (1 << 14) + 256;

/// What a connection's first bytes are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// A ClientHello that offers our ALPN.
    Mesh,
    /// The bytes so far don't tell.
    Open,
    /// Anything else: the application's business.
    Plaintext,
    /// A ClientHello that is longer than any of ours.
    TooLong,
}

/// Judges the first bytes of one connection. What it says follows from the bytes alone, however they are cut.
#[derive(Default)]
pub struct HelloReader {
    acceptor: Acceptor,
    parsed: usize,
}

impl HelloReader {
    /// Judges by `bytes`: all that has come so far, each time. What is not [`Verdict::Open`] is final.
    pub fn judge(&mut self, bytes: &[u8]) -> Verdict {
        // Whole records only: what rustls makes of half of one would depend on where it is cut.
        loop {
            let rest = &bytes[self.parsed..];
            let record = match record_bytes(rest) {
                Ok(Some(length)) => length,
                Ok(None) => return Verdict::Open,
                Err(NotOurs) => return Verdict::Plaintext,
            };
            if self.parsed + record > MAX_HELLO_BYTES {
                return Verdict::TooLong;
            }
            let Some(mut record) = rest.get(..record) else { return Verdict::Open };
            self.parsed += record.len();
            while !record.is_empty() {
                if self.acceptor.read_tls(&mut record).is_err() {
                    return Verdict::TooLong;
                }
            }
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let offered = accepted.client_hello().alpn();
                    let ours = offered.is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN));
                    return if ours { Verdict::Mesh } else { Verdict::Plaintext };
                }
                Ok(None) => {}
                Err(_not_tls) => return Verdict::Plaintext,
            }
        }
    }
}

/// No ClientHello begins or goes on like this.
struct NotOurs;

/// How long the record at the front is, header included; `None` while the header is not all there.
fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, NotOurs> {
    let wrong = |index: usize, wanted: u8| bytes.get(index).is_some_and(|byte| *byte != wanted);
    // Every version of TLS has 3 as its first number.
    if wrong(0, HANDSHAKE) || wrong(1, 3) {
        return Err(NotOurs);
    }
    let Some([.., high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    match usize::from(u16::from_be_bytes([*high, *low])) {
        1..=MAX_RECORD_BYTES => Ok(Some(HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low])))),
        _ => Err(NotOurs),
    }
}

/// What a connection begins with.
#[derive(Debug)]
pub(super) enum Opening<S> {
    /// A ClientHello that offers our ALPN.
    Mesh(Replayed<S>),
    /// Anything else, silence included.
    Plaintext(Replayed<S>),
}

/// Reads a connection's opening. Errors: the hello is too long, or broke off, or took longer than `deadline`.
pub(super) async fn classify<S: AsyncRead + Unpin>(
    mut stream: S,
    silence: Duration,
    deadline: Duration,
) -> io::Result<Opening<S>> {
    let mut bytes = BytesMut::with_capacity(2048);
    match timeout(silence, stream.read_buf(&mut bytes)).await {
        Ok(read) => drop(read?),
        // A server that speaks first, or a client that takes its time.
        Err(_elapsed) => return Ok(Opening::Plaintext(Replayed { bytes, stream })),
    }
    let read = timeout(deadline, read_hello(&mut stream, &mut bytes)).await;
    let ours = read.map_err(|_elapsed| io::ErrorKind::TimedOut)??;
    let replayed = Replayed { bytes, stream };
    Ok(if ours { Opening::Mesh(replayed) } else { Opening::Plaintext(replayed) })
}

/// Reads on until the ClientHello is whole (it spans segments with post-quantum keys); says whether it is for us.
async fn read_hello<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut BytesMut) -> io::Result<bool> {
    let mut reader = HelloReader::default();
    if bytes.is_empty() {
        // The peer has ended its direction and said nothing.
        return Ok(false);
    }
    loop {
        match reader.judge(bytes) {
            Verdict::Mesh => return Ok(true),
            Verdict::Open => {}
            Verdict::Plaintext => return Ok(false),
            Verdict::TooLong => return Err(io::ErrorKind::InvalidData.into()),
        }
        if stream.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A stream that gives back what was read ahead before it reads on.
#[derive(Debug)]
pub(super) struct Replayed<S> {
    bytes: BytesMut,
    stream: S,
}

impl<S> Replayed<S> {
    /// Nothing was read ahead.
    pub(super) fn fresh(stream: S) -> Self {
        Self { bytes: BytesMut::new(), stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replayed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes[..count]);
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            // The buffer goes with its bytes: idle connections hold none.
            self.bytes = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replayed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Transport> Transport for Replayed<S> {
    fn socket(&self) -> Option<&TcpStream> {
        self.stream.socket()
    }

    fn is_drained(&self) -> bool {
        self.bytes.is_empty() && self.stream.is_drained()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex};

    const LONG: Duration = Duration::from_secs(60);

    /// What `classify` makes of `sent`, and what the reader gets afterwards.
    async fn check(sent: &[u8], chunk: usize) -> io::Result<(&'static str, Vec<u8>)> {
        let (mut client, server) = duplex(chunk);
        let sent = sent.to_vec();
        let sending = tokio::spawn(async move { client.write_all(&sent).await });
        let (kind, mut replayed) = match classify(server, LONG, LONG).await? {
            Opening::Mesh(replayed) => ("mesh", replayed),
            Opening::Plaintext(replayed) => ("plaintext", replayed),
        };
        let mut read = Vec::new();
        replayed.read_to_end(&mut read).await?;
        sending.await.unwrap()?;
        Ok((kind, read))
    }

    /// The first flight of a client that offers these protocols.
    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let mut client = rustls::ClientConnection::new(config.into(), "peer".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    #[tokio::test]
    async fn a_hello_with_our_protocol_is_mesh_however_it_is_cut() {
        let hello = hello(&[ALPN]);
        for chunk in [1, 7, 1000, 65536] {
            assert_eq!(check(&hello, chunk).await.unwrap(), ("mesh", hello.clone()), "{chunk}");
        }
    }

    #[tokio::test]
    async fn an_applications_own_tls_is_replayed_to_it_whole() {
        for protocols in [&[][..], &[&b"h2"[..]]] {
            let hello = hello(protocols);
            assert_eq!(check(&hello, 100).await.unwrap(), ("plaintext", hello));
        }
    }

    #[tokio::test]
    async fn other_bytes_and_an_empty_stream_are_plaintext() {
        for sent in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"", b"\x16garbage that is no record"] {
            assert_eq!(check(sent, 100).await.unwrap(), ("plaintext", sent.to_vec()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_plaintext_and_half_a_hello_is_an_error() {
        let (_client, server) = duplex(100);
        assert!(matches!(classify(server, LONG, LONG).await, Ok(Opening::Plaintext(_))));
        let (mut client, server) = duplex(100);
        client.write_all(&hello(&[ALPN])[..50]).await.unwrap();
        assert_eq!(classify(server, LONG, LONG).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_endless_hello_is_refused() {
        // Handshake records of a ClientHello that claims 16 MiB.
        let mut endless = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        endless.resize(5 + 0x4000, 0);
        endless.extend([0x16, 3, 1, 0x40, 0]);
        endless.resize(2 * (5 + 0x4000), 0);
        assert!(!matches!(check(&endless, 65536).await, Ok(("mesh", _))));
    }
}
