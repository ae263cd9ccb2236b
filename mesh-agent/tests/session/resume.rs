//! A resumed session is carried like any other, whichever way its records are protected.

use std::sync::Arc;

use mesh_agent::model::mesh::{CipherSuite, TlsSettings};
use mesh_agent::tls::handshake::{accept, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ends::{ADDRESS, Ids, Path, only, sockets, time_limit};
use crate::pairings;

pairings! {
    the_second_connection_is_resumed_and_carries_as_the_first
}

async fn the_second_connection_is_resumed_and_carries_as_the_first(near: Path, far: Path) {
    for settings in CipherSuite::ALL.map(only).into_iter().chain([TlsSettings::default()]) {
        let ids = Ids::new().await;
        let (client, server) = (ids.client(&settings), ids.server(&settings));
        for round in 0..3 {
            let (here, there) = sockets().await;
            let (paths, other_paths) = (near.data_paths(&settings), far.data_paths(&settings));
            let (client, server) = tokio::join!(
                connect(here, ADDRESS, Arc::clone(&client), &paths, time_limit()),
                accept(there, Arc::clone(&server), &other_paths, time_limit())
            );
            let (mut client, mut server) = (client.unwrap(), server.unwrap());
            assert_eq!((client.info.resumed, server.info.resumed), (round > 0, round > 0), "{settings:?}");
            client.stream.write_all(&[round; 50_000]).await.unwrap();
            client.stream.shutdown().await.unwrap();
            let mut heard = vec![];
            server.stream.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, [round; 50_000]);
            server.stream.write_all(b"bye").await.unwrap();
            server.stream.shutdown().await.unwrap();
            heard.clear();
            client.stream.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"bye");
        }
    }
}
