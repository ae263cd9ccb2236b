//! A client whose connect(), send and receive go through io_uring: no system call of that name is ever made.

use std::net::SocketAddr;

use anyhow::Result;
use tokio_uring::net::TcpStream;

use super::Called;

/// More than any answer of the line server.
const ANSWER_BYTES: usize = 4096;

pub(super) fn call(to: SocketAddr, say: &str) -> Called {
    match tokio_uring::start(talk(to, format!("{say}\n"))) {
        Ok(answer) => Called { answer: Some(answer), ..Called::default() },
        Err(error) => Called { error: Some(format!("{error:#}")), ..Called::default() },
    }
}

async fn talk(to: SocketAddr, line: String) -> Result<String> {
    let stream = TcpStream::connect(to).await?;
    stream.write_all(line.into_bytes()).await.0?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        let (count, buffer) = stream.read(vec![0; ANSWER_BYTES]).await;
        let count = count?;
        anyhow::ensure!(count > 0, "the stream ended in the middle of the answer");
        answer.extend_from_slice(&buffer[..count]);
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}
