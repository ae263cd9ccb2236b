//! Data that comes with the last flight of the handshake is not lost, wherever the segments are cut.

use mesh_agent::model::mesh::TlsSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ends::{Ids, Path, scale, serve, sockets};
use crate::paths;
use crate::peer::{Peer, within};

paths! {
    data_behind_the_finished_message_arrives
}

async fn data_behind_the_finished_message_arrives(path: Path) {
    let (ids, settings) = (Ids::new().await, TlsSettings::default());
    // Every point; under emulation, where a handshake takes a while, every so many, without a common factor of records.
    let stride = if scale() > 1 { 37 } else { 1 };
    let (mut cut, mut length) = (1, usize::MAX);
    while cut < length {
        let (near, far) = sockets().await;
        let mut peer = Peer::client(&ids, &settings, far);
        let shaking = async {
            peer.shake().await;
            // The certificate, its proof, Finished, and data: 1,000 bytes in a record, then ten.
            let mut last = peer.flight();
            last.extend(peer.seal(&[1; 1000]));
            last.extend(peer.seal(&[2; 10]));
            // The proof's signature is a byte longer or shorter each time.
            let cut = cut.min(last.len());
            peer.socket.write_all(&last[..cut]).await.unwrap();
            // The first part has been read before the rest is sent, or the cut would show nothing.
            tokio::task::yield_now().await;
            peer.socket.write_all(&last[cut..]).await.unwrap();
            last.len()
        };
        let (session, whole) = within(async { tokio::join!(serve(near, path, &ids, &settings), shaking) }).await;
        let (mut stream, mut heard) = (session.unwrap().stream, [0; 1010]);
        within(stream.read_exact(&mut heard)).await.unwrap();
        assert!(heard[..1000] == [1; 1000] && heard[1000..] == [2; 10], "cut at {cut}");
        (cut, length) = (cut + stride, whole);
    }
}
