//! A key that has encrypted as much as it may is replaced, or its connection ends and says so; no other way.

use mesh_agent::model::mesh::{CipherSuite, TlsSettings};
use mesh_agent::tls::session::TlsStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ends::{Path, kernel_rekeys, only, session};
use crate::pairings;
use crate::peer::{name, within};

pairings! {
    a_spent_aes_key_is_replaced_or_ends_the_connection
    a_chacha_key_is_never_spent
    small_records_do_not_wear_a_key_out
}

const MIB: usize = 1 << 20;

fn lowered(cipher: CipherSuite) -> TlsSettings {
    TlsSettings { rekey_after: Some(MIB as u64), ..only(cipher) }
}

fn rekeys(path: Path) -> bool {
    path == Path::Userspace || kernel_rekeys()
}

/// Sends `total` bytes in `chunk`s; says what each end came to.
async fn transfer(
    from: &mut TlsStream<TcpStream>,
    to: &mut TlsStream<TcpStream>,
    total: usize,
    chunk: usize,
) -> (Result<(), String>, Result<usize, String>) {
    let sending = async {
        for _ in 0..total / chunk {
            from.write_all(&vec![7; chunk]).await?;
        }
        from.shutdown().await
    };
    let receiving = async {
        let (mut received, mut space) = (0, vec![0; 64 * 1024]);
        loop {
            match to.read(&mut space).await {
                Ok(0) => return Ok(received),
                Ok(count) => received += count,
                Err(error) => return Err(name(&error)),
            }
        }
    };
    let (sent, received) = within(async { tokio::join!(sending, receiving) }).await;
    (sent.map_err(|error| name(&error)), received)
}

async fn a_spent_aes_key_is_replaced_or_ends_the_connection(near: Path, far: Path) {
    for cipher in [CipherSuite::Aes128Gcm, CipherSuite::Aes256Gcm] {
        let (mut client, mut server) = session((near, far), &lowered(cipher)).await;
        let (sent, received) = transfer(&mut client, &mut server, 5 * MIB, 16_384).await;
        match (rekeys(near), rekeys(far)) {
            (true, true) => assert_eq!((sent, received), (Ok(()), Ok(5 * MIB)), "{cipher:?}"),
            (true, false) => assert_eq!(received, Err("key_update_unsupported".to_owned()), "{cipher:?}"),
            (false, _) => {
                assert_eq!(sent, Err("key_limit".to_owned()), "{cipher:?}");
                assert_eq!(received, Err("alert_internal_error".to_owned()), "{cipher:?}");
            }
        }
    }
}

async fn a_chacha_key_is_never_spent(near: Path, far: Path) {
    let (mut client, mut server) = session((near, far), &lowered(CipherSuite::Chacha20Poly1305)).await;
    let outcome = transfer(&mut client, &mut server, 5 * MIB, 16_384).await;
    assert_eq!(outcome, (Ok(()), Ok(5 * MIB)));
}

async fn small_records_do_not_wear_a_key_out(near: Path, far: Path) {
    // 10,000 records of a byte are 20,000 blocks; the key is good for 65,536.
    let (mut client, mut server) = session((near, far), &lowered(CipherSuite::Aes128Gcm)).await;
    let outcome = transfer(&mut client, &mut server, 10_000, 1).await;
    assert_eq!(outcome, (Ok(()), Ok(10_000)));
}
