//! Reads the Prometheus text that an agent serves.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// GETs `path` from inside `netns`.
pub fn get(netns: &Netns, address: SocketAddr, path: &str) -> Result<Answer> {
    netns.enter(|| {
        let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("read the answer")?;
        parse(&text).with_context(|| format!("understand the answer to GET {path}"))
    })
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

/// The sum of the samples of `name` that carry all of `labels`.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let matching = samples(text, name).filter(|(found, _)| wanted.iter().all(|label| found.contains(&label.as_str())));
    matching.map(|(_, value)| value).sum()
}

/// The samples of `name`, each as its labels and its value.
fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (Vec<&'a str>, f64)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(move |line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.trim_end_matches('}').split(',').collect();
        (found == name).then(|| Some((labels, value.parse().ok()?)))?
    })
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn samples_are_chosen_by_name_and_labels() {
        let text = "# TYPE mesh_kernel counter\n\
                    mesh_kernel_total{reason=\"refuse\",node=\"a\"} 2\n\
                    mesh_kernel_total{reason=\"pass\",node=\"a\"} 40\n\
                    mesh_kernel_total_other 9\n\
                    mesh_up 1\n";
        assert_eq!(sum(text, "mesh_kernel_total", &[("reason", "refuse")]).to_bits(), 2f64.to_bits());
        assert_eq!(sum(text, "mesh_kernel_total", &[]).to_bits(), 42f64.to_bits());
        assert_eq!(sum(text, "mesh_up", &[]).to_bits(), 1f64.to_bits());
    }
}
