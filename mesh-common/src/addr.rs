//! One form of address for every map: 16 bytes, IPv4 mapped into `::ffff:0:0/96` (RFC 4291 §2.5.5.2).
//!
//! A dual-stack socket shows the same IPv4 peer as `::ffff:a.b.c.d`; one form makes both meet the same map entry.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const MAPPED: u32 = 0xffff_u32.to_be();

/// An address as map key: four words in network order.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct IpKey {
    words: [u32; 4],
}

impl IpKey {
    /// From the four words of an IPv6 address, in network order.
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// From an IPv4 address in network order.
    pub const fn from_v4(address_be: u32) -> Self {
        Self { words: [0, 0, MAPPED, address_be] }
    }

    /// The four words, in network order.
    pub const fn words(&self) -> [u32; 4] {
        self.words
    }

    /// Whether this is an IPv4 address.
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// Whether no address is set: `::` (a free field) or 0.0.0.0, which Linux takes for the local host.
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] == 0
            && self.words[1] == 0
            && (self.words[2] == 0 || self.words[2] == MAPPED)
            && self.words[3] == 0
    }

    /// 127.0.0.0/8 or ::1.
    pub const fn is_loopback(&self) -> bool {
        let last = u32::from_be(self.words[3]);
        let v6 = self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 && last == 1;
        v6 || self.is_v4() && last >> 24 == 127
    }

    /// 169.254.0.0/16 or fe80::/10.
    pub const fn is_link_local(&self) -> bool {
        let v6 = u32::from_be(self.words[0]) >> 22 == 0xfe80 >> 6;
        v6 || self.is_v4() && u32::from_be(self.words[3]) >> 16 == 0xa9fe
    }
}

impl From<IpAddr> for IpKey {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from_v4(v4.to_bits().to_be()),
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                #[expect(clippy::cast_possible_truncation, reason = "takes the word at `shift`")]
                let word = |shift: u32| ((bits >> shift) as u32).to_be();
                Self { words: [word(96), word(64), word(32), word(0)] }
            }
        }
    }
}

impl From<IpKey> for IpAddr {
    fn from(key: IpKey) -> Self {
        let word = |i: usize| u128::from(u32::from_be(key.words[i]));
        if key.is_v4() {
            return Ipv4Addr::from_bits(u32::from_be(key.words[3])).into();
        }
        Ipv6Addr::from_bits(word(0) << 96 | word(1) << 64 | word(2) << 32 | word(3)).into()
    }
}

const _: () = assert!(size_of::<IpKey>() == 16 && align_of::<IpKey>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> IpKey {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_address_survives_the_way_through_a_map() {
        for text in ["10.1.2.3", "fd77:1::2", "::1", "0.0.0.0", "255.255.255.255"] {
            assert_eq!(IpAddr::from(key(text)).to_string(), text);
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        assert_eq!(key("::ffff:10.1.2.3"), key("10.1.2.3"));
        assert!(key("::ffff:10.1.2.3").is_v4());
    }

    #[test]
    fn special_addresses_are_recognised_in_both_families() {
        for (text, unspecified, loopback, link_local) in [
            ("0.0.0.0", true, false, false),
            ("::", true, false, false),
            ("127.8.0.1", false, true, false),
            ("::1", false, true, false),
            ("::ffff:127.0.0.1", false, true, false),
            ("169.254.1.1", false, false, true),
            ("fe80::1", false, false, true),
            ("febf::1", false, false, true),
            ("fec0::1", false, false, false),
            ("10.0.0.1", false, false, false),
            ("fd00::1", false, false, false),
            ("::2", false, false, false),
        ] {
            let key = key(text);
            assert_eq!(
                (key.is_unspecified(), key.is_loopback(), key.is_link_local()),
                (unspecified, loopback, link_local),
                "{text}"
            );
        }
    }
}
