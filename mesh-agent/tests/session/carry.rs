//! Bytes arrive as they were sent, in both directions at once; ends and breaks arrive as what they were.

use std::io;
use std::time::Duration;

use mesh_agent::model::mesh::{CipherSuite, TlsSettings};
use mesh_agent::tls::session_reason;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;

use crate::ends::{Path, kernel_rekeys, only, session};
use crate::pairings;

pairings! {
    every_cipher_carries_both_directions_at_once
    odd_sizes_arrive_whole
    each_end_may_finish_first
    a_reset_is_a_reset
    a_stalled_reader_stops_its_sender_and_loses_nothing
    a_fin_without_goodbye_is_truncation
}

const MIB: usize = 1 << 20;

/// The byte at a position: no period that a record's size could hide.
fn pattern(position: usize) -> u8 {
    let mixed = (position as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), total: usize, sizes: impl Fn(usize) -> usize) {
    let (mut position, mut round) = (0, 0);
    while position < total {
        let size = sizes(round).min(total - position);
        let chunk: Vec<u8> = (position..position + size).map(pattern).collect();
        stream.write_all(&chunk).await.unwrap();
        (position, round) = (position + size, round + 1);
    }
    stream.flush().await.unwrap();
}

async fn receive(stream: &mut (impl AsyncRead + Unpin), total: usize) {
    let (mut position, mut chunk) = (0, vec![0; 64 * 1024]);
    while position < total {
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "the stream ended after {position} of {total} bytes");
        let wrong = chunk[..count].iter().enumerate().find(|(index, byte)| **byte != pattern(position + index));
        assert_eq!(wrong.map(|(index, _)| position + index), None, "a byte differs");
        position += count;
    }
    assert_eq!(position, total, "there is more than was sent");
}

async fn at_end(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
    stream.read(&mut [0; 1024]).await
}

/// How much each way; `cargo xtask test --long` wants more.
fn bulk() -> usize {
    std::env::var("MESH_TEST_BULK_MIB").map_or(32, |mib| mib.parse().unwrap()) * MIB
}

async fn every_cipher_carries_both_directions_at_once(near: Path, far: Path) {
    for cipher in CipherSuite::ALL {
        let (client, server) = session((near, far), &only(cipher)).await;
        let ((mut from_server, mut to_server), (mut from_client, mut to_client)) = (split(client), split(server));
        tokio::join!(
            send(&mut to_server, bulk(), |_| 64 * 1024),
            send(&mut to_client, bulk(), |_| 64 * 1024),
            receive(&mut from_client, bulk()),
            receive(&mut from_server, bulk()),
        );
    }
}

async fn odd_sizes_arrive_whole(near: Path, far: Path) {
    const SIZES: [usize; 16] =
        [1, 2, 15, 16, 17, 255, 1447, 4095, 16_383, 16_384, 16_385, 32_768, 50_001, 65_536, 100_003, 131_072];
    let (mut client, mut server) = session((near, far), &TlsSettings::default()).await;
    let total = 3 * SIZES.iter().sum::<usize>();
    let size = |round: usize| SIZES[round % SIZES.len()];
    tokio::join!(send(&mut client, total, size), receive(&mut server, total));
    tokio::join!(send(&mut server, total, size), receive(&mut client, total));
}

async fn each_end_may_finish_first(near: Path, far: Path) {
    for client_first in [true, false] {
        let (client, server) = session((near, far), &TlsSettings::default()).await;
        let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
        send(&mut first, 100_000, |_| 10_000).await;
        first.shutdown().await.unwrap();
        receive(&mut second, 100_000).await;
        assert_eq!(at_end(&mut second).await.unwrap(), 0);
        // The other direction goes on.
        send(&mut second, 100_000, |_| 999).await;
        second.shutdown().await.unwrap();
        receive(&mut first, 100_000).await;
        assert_eq!(at_end(&mut first).await.unwrap(), 0);
    }
}

async fn a_reset_is_a_reset(near: Path, far: Path) {
    for client_resets in [true, false] {
        let (client, server) = session((near, far), &TlsSettings::default()).await;
        let (resets, mut hears) = if client_resets { (client, server) } else { (server, client) };
        set_socket_linger(resets.get_ref(), Some(Duration::ZERO)).unwrap();
        drop(resets);
        let error = at_end(&mut hears).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error:?}");
    }
}

async fn a_stalled_reader_stops_its_sender_and_loses_nothing(near: Path, far: Path) {
    let (mut client, mut server) = session((near, far), &TlsSettings::default()).await;
    let chunk: Vec<u8> = (0..64 * 1024).map(pattern).collect();
    let mut sent = 0;
    // As long as anything is taken within half a second.
    while let Ok(written) = timeout(Duration::from_millis(500), client.write(&chunk[sent % chunk.len()..])).await {
        sent += written.unwrap();
        assert!(sent < 64 * MIB, "nothing stops the sender");
    }
    let finish = async {
        client.flush().await.unwrap();
        client.shutdown().await.unwrap();
    };
    let drain = async {
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = tokio::join!(finish, drain);
    assert_eq!(received.len(), sent);
    assert!(received.iter().enumerate().all(|(index, byte)| *byte == chunk[index % chunk.len()]), "a byte differs");
}

async fn a_fin_without_goodbye_is_truncation(near: Path, far: Path) {
    for client_cuts in [true, false] {
        let (client, server) = session((near, far), &TlsSettings::default()).await;
        let (mut cuts, mut hears) = if client_cuts { (client, server) } else { (server, client) };
        send(&mut cuts, 1000, |_| 1000).await;
        shutdown(cuts.get_ref(), Shutdown::Write).unwrap();
        receive(&mut hears, 1000).await;
        let error = at_end(&mut hears).await.unwrap_err();
        assert_eq!(session_reason(&error), Some("truncated"), "{error:?}");
    }
}

/// A key that this end can't replace is chosen to last.
#[test]
fn ciphers_that_last_are_preferred_where_keys_cannot_be_replaced() {
    let settings = TlsSettings::default();
    assert_eq!(Path::Userspace.data_paths(&settings).prefer(&settings), settings);
    if let Ok(probed) = mesh_agent::tls::probe::probe() {
        assert_eq!(probed.rekey, kernel_rekeys());
        let preferred = Path::Kernel.data_paths(&settings).prefer(&settings).cipher_suites[0];
        let expected = if probed.rekey { CipherSuite::Aes256Gcm } else { CipherSuite::Chacha20Poly1305 };
        assert_eq!(preferred, expected);
        let chosen = only(CipherSuite::Aes128Gcm);
        assert_eq!(Path::Kernel.data_paths(&chosen).prefer(&chosen), chosen);
    }
}
