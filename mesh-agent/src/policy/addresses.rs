//! Ranges of addresses, sorted and merged: a look-up is a binary search, however many there are.

use std::net::IpAddr;

use ipnet::IpNet;

/// Inclusive ranges of both families.
#[derive(Debug, Default)]
pub struct Addresses {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Addresses {
    /// Merges ranges.
    pub fn of(ranges: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for range in ranges {
            match range {
                IpNet::V4(range) => v4.push((range.network().to_bits(), range.broadcast().to_bits())),
                IpNet::V6(range) => v6.push((range.network().to_bits(), range.broadcast().to_bits())),
            }
        }
        Self { v4: merged(v4), v6: merged(v6) }
    }

    /// Whether one of the ranges has the address; IPv4 may be mapped.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => covers(&self.v4, address.to_bits()),
            IpAddr::V6(address) => covers(&self.v6, address.to_bits()),
        }
    }
}

fn merged<T: Copy + Ord>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

fn covers<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).is_some_and(|index| address <= ranges[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_range_contains_is_contained() {
        let ranges = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "fd00::/8"].map(|range| range.parse().unwrap());
        let addresses = Addresses::of(&ranges);
        for (address, inside) in [
            ("10.255.255.255", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fdff::1", true),
            ("fe00::1", false),
        ] {
            assert_eq!(addresses.contains(address.parse().unwrap()), inside, "{address}");
        }
        let everything_v6 = Addresses::of(&["::/0".parse().unwrap()]);
        assert!(!everything_v6.contains("10.0.0.1".parse().unwrap()), "IPv4 is no part of IPv6");
    }
}
