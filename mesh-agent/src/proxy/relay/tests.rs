//! What a relay promises about bytes, ends and breaks, over streams in memory.

use std::future::pending;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;

/// A relay, the client's end and the server's.
fn world(capacity: usize) -> (Relay<DuplexStream, DuplexStream>, DuplexStream, DuplexStream) {
    let ((client, down), (up, server)) = (duplex(capacity), duplex(capacity));
    (Relay::new(down, up), client, server)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..=250_u8).cycle().step_by(31).take(length).collect()
}

#[tokio::test]
async fn a_half_close_is_passed_on_and_the_other_direction_goes_on() {
    let (mut relay, mut client, mut server) = world(64);
    let relaying = tokio::spawn(async move {
        let result = relay.run(pending(), pending()).await;
        (result, relay.moved())
    });
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!((&*question, &*answer), (&b"question"[..], &b"answer"[..]));
    assert_eq!(relaying.await.unwrap(), (Ok(()), (8, 6)));
}

#[tokio::test]
async fn a_stalled_reader_stops_its_sender() {
    let (mut relay, mut client, _server) = world(1000);
    let sending = async {
        let mut accepted = 0;
        loop {
            accepted += client.write(&[0; 100]).await.unwrap();
            assert!(accepted <= 2000 + 64 * 1024, "{accepted} bytes were accepted");
        }
    };
    let stalled = timeout(Duration::from_millis(50), async { tokio::join!(relay.run(pending(), pending()), sending) });
    assert!(stalled.await.is_err());
    let held = relay.pause().forward.bytes.len();
    assert!(held <= 64 * 1024, "{held} bytes are held");
}

#[tokio::test]
async fn a_paused_relay_tells_what_it_holds_and_another_goes_on() {
    let sent = pattern(100_000);
    for stop_after in [0, 1, 999, 20_000, 50_000] {
        let (mut relay, mut client, mut server) = world(700);
        let mut received = vec![0; stop_after];
        let mut written = 0;
        let sending = async {
            while let Ok(count) = client.write(&sent[written..]).await {
                written += count;
            }
        };
        tokio::select! {
            _ = relay.run(pending(), pending()) => unreachable!("nothing has ended"),
            () = sending => unreachable!("the reader stops"),
            result = server.read_exact(&mut received) => drop(result.unwrap()),
        }
        // The streams go on to the next relay; they hold up to 700 bytes themselves.
        let Relay { down, up, forward, backward, .. } = relay;
        let held = Held { forward: forward.into(), backward: backward.into() };
        let read = usize::try_from(held.forward.read).unwrap();
        assert!(read <= written, "{stop_after}");
        let passed = read - held.forward.bytes.len();
        assert!(passed >= stop_after, "{stop_after}: only {passed} bytes were passed on");
        assert_eq!(held.forward.bytes, sent[passed..passed + held.forward.bytes.len()], "{stop_after}");
        assert!(!held.forward.ended && !held.backward.ended);
        let mut relay = Relay::resumed(down, up, held);
        let rest = async {
            client.write_all(&sent[written..]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let reading = async {
            server.read_to_end(&mut received).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (result, (), ()) = tokio::join!(relay.run(pending(), pending()), rest, reading);
        assert_eq!((result, relay.moved()), (Ok(()), (100_000, 0)));
        assert!(received == sent, "{stop_after}: the bytes differ");
        let held = relay.pause();
        assert!(held.forward.passed_on && held.backward.passed_on && held.forward.bytes.is_empty());
    }
}

#[tokio::test]
async fn a_failed_socket_counts_once_nobody_reads_from_it() {
    // The server stalls, so nothing is read from the client, which fails.
    let (mut relay, mut client, _server) = world(100);
    tokio::select! {
        _ = relay.run(pending(), pending()) => unreachable!("nothing has failed yet"),
        result = timeout(Duration::from_millis(50), client.write_all(&[0; 100_000])) => assert!(result.is_err()),
    }
    assert_eq!(relay.run(async {}, pending()).await, Err("downstream_reset"));
    // Still read from: reading will tell.
    let (mut relay, _client, _server) = world(100);
    assert!(timeout(Duration::from_millis(50), relay.run(async {}, async {})).await.is_err());
    // Read to its end: nobody else would ever tell.
    let (mut relay, mut client, _server) = world(100);
    client.shutdown().await.unwrap();
    assert_eq!(relay.run(async {}, pending()).await, Err("downstream_reset"));
}

#[tokio::test]
async fn an_answer_that_came_before_the_break_is_passed_on() {
    let (mut relay, mut client, mut server) = world(1000);
    server.write_all(b"413 too large").await.unwrap();
    drop(server);
    client.write_all(b"request").await.unwrap();
    assert_eq!(relay.run(pending(), pending()).await, Err("upstream_reset"));
    let mut answer = [0; 13];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"413 too large");
}
