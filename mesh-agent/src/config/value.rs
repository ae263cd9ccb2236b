//! Reads single values: names, addresses, ranges, durations, paths.
//!
//! Each function turns a text into a valid value or into the reason why it isn't one. Names follow Kubernetes
//! (RFC 1123 labels and subdomains), so that a file that is accepted here is accepted there.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::spiffe::TrustDomain;

/// Longest RFC 1123 label and longest name part of a label key, in bytes.
const MAX_LABEL_BYTES: usize = 63;
/// Longest RFC 1123 subdomain, in bytes.
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// An RFC 1123 label, such as a namespace.
pub(super) fn dns_label(text: &str) -> Result<String, String> {
    if is_dns_label(text) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a DNS label (a-z, 0-9 and inner `-`, at most {MAX_LABEL_BYTES} characters)"))
}

/// An RFC 1123 subdomain, such as the name of an object.
pub(super) fn dns_subdomain(text: &str) -> Result<String, String> {
    if is_dns_subdomain(text) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a DNS subdomain (labels of a-z, 0-9 and inner `-`, joined by `.`)"))
}

/// The key of a Kubernetes label or annotation: `[prefix/]name`.
pub(super) fn label_key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_word(name) {
        return Ok(());
    }
    Err(format!("`{text}` is not a label key"))
}

/// The value of a Kubernetes label; may be empty.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if is_label_word(text) { Ok(()) } else { Err(format!("`{text}` is not a label value")) }
}

/// A trust domain's name.
pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| format!("`{text}` {error}"))
}

/// An address that other pods can reach.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_unexplained| format!("`{text}` is not an IP address"))?;
    if address.to_canonical() != address {
        return Err(format!("`{text}` is IPv4 inside IPv6, write `{}`", address.to_canonical()));
    }
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return Err(format!("`{text}` is not an address that other pods can reach"));
    }
    Ok(address)
}

/// A range of addresses in CIDR form, without host bits.
pub(super) fn range(text: &str) -> Result<IpNet, String> {
    let range: IpNet =
        text.parse().map_err(|_unexplained| format!("`{text}` is not a CIDR range like `10.0.0.0/8`"))?;
    if range.trunc() != range {
        return Err(format!("`{text}` has bits set after its prefix, did you mean `{}`?", range.trunc()));
    }
    Ok(range)
}

/// A range in CIDR form, or the address of one.
pub(super) fn range_or_address(text: &str) -> Result<IpNet, String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return range(text).map_err(|reason| reason.replace("a CIDR range like", "an IP address or a CIDR range like"));
    };
    if address.to_canonical() != address {
        return Err(format!("`{text}` is IPv4 inside IPv6, write `{}`", address.to_canonical()));
    }
    Ok(address.into())
}

/// A duration in Go's form, as Kubernetes writes them: whole numbers of `h`, `m`, `s` and `ms`, within bounds.
pub(super) fn duration(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let duration = parse_duration(text)
            .ok_or_else(|| format!("`{text}` is not a duration like `200ms`, `10s`, `5m`, `24h` or `1h30m`"))?;
        if duration < min || duration > max {
            return Err(format!("`{text}` is not between {} and {}", in_words(min), in_words(max)));
        }
        Ok(duration)
    }
}

/// An amount of bytes as Kubernetes writes them, in powers of 1024 and at least `min`.
pub(super) fn bytes(min: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let amount =
            parse_bytes(text).ok_or_else(|| format!("`{text}` is not an amount like `64Mi`, `10Gi` or `1Ti`"))?;
        if amount < min {
            return Err(format!("`{text}` is less than {min} bytes"));
        }
        Ok(amount)
    }
}

/// Where a service is: `host:port`, with a DNS name or an address; IPv6 in brackets.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let is_host = |host: &str| {
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        is_dns_subdomain(host) || bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
    };
    match text.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port != 0) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not a host and a port like `ca.example.org:15100` or `[fd00::1]:15100`")),
    }
}

/// A path of the file system; relative ones are allowed.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty, expected a path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// An absolute path of the file system.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = path(text)?;
    if path.is_absolute() { Ok(path) } else { Err(format!("`{text}` is not an absolute path")) }
}

/// One of `choices`, by name.
pub(super) fn choice<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            format!("`{text}` is not one of {}", listed(choices.iter().map(|(name, _)| format!("`{name}`"))))
        })
    }
}

/// Joins with commas.
pub(super) fn listed(items: impl Iterator<Item: Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn is_dns_label(text: &str) -> bool {
    let inner = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    inner && !text.is_empty() && text.len() <= MAX_LABEL_BYTES && !text.starts_with('-') && !text.ends_with('-')
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN_BYTES && text.split('.').all(is_dns_label)
}

fn is_label_word(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_end = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    let (first, last) = (text.bytes().next(), text.bytes().next_back());
    text.len() <= MAX_LABEL_BYTES && text.bytes().all(is_inner) && is_end(first) && is_end(last)
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let shift = ["Ki", "Mi", "Gi", "Ti"].iter().position(|known| *known == unit)?;
    number.parse::<u64>().ok()?.checked_mul(1 << (10 * (shift + 1)))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit_bytes = after.find(|character: char| character.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_bytes);
        let millis = match unit {
            "h" => number.checked_mul(3_600_000),
            "m" => number.checked_mul(60_000),
            "s" => number.checked_mul(1_000),
            "ms" => Some(number),
            _ => None,
        }?;
        total = total.checked_add(Duration::from_millis(millis))?;
        rest = next;
    }
    Some(total)
}

/// The largest unit that shows the duration in whole numbers.
fn in_words(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, unit_millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis.is_multiple_of(unit_millis) {
            return format!("{}{unit}", millis / unit_millis);
        }
    }
    format!("{millis}ms")
}
