//! Whatever a peer says after the handshake has an outcome of its own, and none is a hang.

use mesh_agent::model::mesh::TlsSettings;
use mesh_agent::tls::session::TlsStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ends::{Path, kernel_rekeys};
use crate::paths;
use crate::peer::{Peer, as_client, as_server, in_role, name, within};

paths! {
    tickets_are_consumed
    a_goodbye_ends_one_direction
    a_fatal_alert_has_its_name
    garbage_is_no_record
    a_record_that_was_changed_is_refused
    a_bare_fin_after_the_handshake_is_truncation
    a_key_update_is_followed_or_named
    a_record_in_plain_is_refused
}

/// What reading comes to: the data, then the end or the name of what broke it.
async fn read_all(stream: &mut TlsStream<TcpStream>) -> (Vec<u8>, Result<(), String>) {
    let (mut data, mut chunk) = (vec![], vec![0; 64 * 1024]);
    loop {
        match within(stream.read(&mut chunk)).await {
            Ok(0) => return (data, Ok(())),
            Ok(count) => data.extend_from_slice(&chunk[..count]),
            Err(error) => return (data, Err(name(&error))),
        }
    }
}

fn failed(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

/// Both roles: a server's peer and a client's peer say `bytes`, made by `make`, after some data.
async fn check(path: Path, mut make: impl FnMut(&mut Peer) -> Vec<u8>, expected: &Result<(), String>) {
    for client in [false, true] {
        let (mut stream, mut peer) = in_role(client, path).await;
        let mut bytes = peer.seal(b"before");
        bytes.extend(make(&mut peer));
        peer.socket.write_all(&bytes).await.unwrap();
        peer.socket.shutdown().await.unwrap();
        let heard = read_all(&mut stream).await;
        assert_eq!(heard, (b"before".to_vec(), expected.clone()), "as a client: {client}");
    }
}

async fn tickets_are_consumed(path: Path) {
    for tickets in [1, 2, 4] {
        let (mut stream, mut peer) = as_client(path, &TlsSettings::default(), tickets).await;
        let bytes = peer.seal(b"after the tickets");
        peer.socket.write_all(&bytes).await.unwrap();
        let mut heard = [0; 17];
        within(stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"after the tickets");
        stream.write_all(b"ok").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(within(peer.hear(2)).await, b"ok");
    }
}

async fn a_goodbye_ends_one_direction(path: Path) {
    let goodbye = |peer: &mut Peer| {
        peer.tls.send_close_notify();
        peer.flight()
    };
    check(path, goodbye, &Ok(())).await;
    let (mut stream, mut peer) = as_server(path, &TlsSettings::default()).await;
    let bytes = goodbye(&mut peer);
    peer.socket.write_all(&bytes).await.unwrap();
    assert_eq!(read_all(&mut stream).await, (vec![], Ok(())));
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(within(peer.hear(10)).await, b"still here");
}

async fn a_fatal_alert_has_its_name(path: Path) {
    // rustls' way to a fatal alert: it is told nonsense.
    let alarm = |peer: &mut Peer| {
        peer.tls.read_tls(&mut &[23, 3, 3, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..]).unwrap();
        peer.tls.process_new_packets().unwrap_err();
        peer.flight()
    };
    check(path, alarm, &failed("alert_bad_record_mac")).await;
}

async fn garbage_is_no_record(path: Path) {
    check(path, |_| b"GET / HTTP/1.1\r\nHost: redis\r\n\r\n".to_vec(), &failed("bad_record")).await;
    check(path, |_| vec![0xff; 20_000], &failed("bad_record")).await;
}

async fn a_record_that_was_changed_is_refused(path: Path) {
    let change = |at: fn(usize) -> usize| {
        move |peer: &mut Peer| {
            let mut bytes = peer.seal(&[7; 1000]);
            let index = at(bytes.len());
            bytes[index] ^= 1;
            bytes
        }
    };
    check(path, change(|length| length - 1), &failed("bad_record_mac")).await;
    check(path, change(|length| length / 2), &failed("bad_record_mac")).await;
    // A record that was sent before.
    let replay = |peer: &mut Peer| {
        let record = peer.seal(b"once");
        [record.clone(), record].concat()
    };
    for client in [false, true] {
        let (mut stream, mut peer) = in_role(client, path).await;
        let bytes = replay(&mut peer);
        peer.socket.write_all(&bytes).await.unwrap();
        assert_eq!(read_all(&mut stream).await, (b"once".to_vec(), failed("bad_record_mac")));
    }
}

async fn a_bare_fin_after_the_handshake_is_truncation(path: Path) {
    check(path, |_| vec![], &failed("truncated")).await;
    // In the middle of a record, too.
    check(path, |peer| peer.seal(&[7; 1000])[..500].to_vec(), &failed("truncated")).await;
}

async fn a_record_in_plain_is_refused(path: Path) {
    // An alert that nobody has encrypted: whoever is on the path could have sent it. The kernel takes it for a record
    // that fails authentication.
    let expected = if path == Path::Kernel { "bad_record_mac" } else { "unexpected_message" };
    check(path, |_| vec![21, 3, 3, 0, 2, 1, 0], &failed(expected)).await;
}

async fn a_key_update_is_followed_or_named(path: Path) {
    for client in [false, true] {
        let (mut stream, mut peer) = in_role(client, path).await;
        for round in 0..3_u8 {
            peer.tls.refresh_traffic_keys().unwrap();
            let bytes = peer.seal(&[round; 100]);
            peer.socket.write_all(&bytes).await.unwrap();
            let mut heard = [0; 100];
            let read = within(stream.read_exact(&mut heard)).await;
            if path == Path::Kernel && !kernel_rekeys() {
                assert_eq!(name(&read.unwrap_err()), "key_update_unsupported");
                break;
            }
            read.unwrap();
            assert_eq!(heard, [round; 100]);
            // rustls asks for ours in return: this is under new keys too.
            stream.write_all(&[round; 50]).await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(within(peer.hear(50)).await, [round; 50]);
        }
    }
}
