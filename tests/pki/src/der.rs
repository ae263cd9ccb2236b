//! The few DER forms that certificates are made of (X.690).

use time::OffsetDateTime;

pub(crate) const SEQUENCE: u8 = 0x30;

/// Tag, length, contents.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let mut der = vec![tag];
    let length = contents.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    match contents.len() {
        0..128 => der.push(significant.first().copied().unwrap_or_default()),
        _ => {
            der.push(0x80 | u8::try_from(significant.len()).expect("a length has at most eight bytes"));
            der.extend(significant);
        }
    }
    der.extend(contents);
    der
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, parts)
}

/// An object identifier from its arcs.
pub(crate) fn oid(arcs: &[u32]) -> Vec<u8> {
    let mut contents = vec![u8::try_from(arcs[0] * 40 + arcs[1]).expect("the first two arcs are small")];
    for arc in &arcs[2..] {
        let groups = (0..5).rev().map(|group| (arc >> (7 * group)) & 0x7f);
        let mut groups: Vec<u8> = groups.map(|group| u8::try_from(group).expect("seven bits")).collect();
        let first = groups.iter().position(|group| *group != 0).unwrap_or(4);
        for group in &mut groups[first..4] {
            *group |= 0x80;
        }
        contents.extend(&groups[first..]);
    }
    tlv(0x06, &[&contents])
}

/// A bit string of whole bytes.
pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], bytes])
}

/// A name with one attribute, the common name; none if it is empty.
pub(crate) fn name(common_name: &str) -> Vec<u8> {
    subject("", common_name)
}

/// A name of those of its two attributes that aren't empty.
pub(crate) fn subject(organization: &str, common_name: &str) -> Vec<u8> {
    let attribute = |arcs: &[u32], value: &str| match value {
        "" => Vec::new(),
        value => tlv(0x31, &[&sequence(&[&oid(arcs), &tlv(0x0c, &[value.as_bytes()])])]),
    };
    sequence(&[&attribute(&[2, 5, 4, 10], organization), &attribute(&[2, 5, 4, 3], common_name)])
}

/// A UTCTime: good until 2049.
pub(crate) fn utc_time(time: OffsetDateTime) -> Vec<u8> {
    let (year, month, day) = (time.year() % 100, u8::from(time.month()), time.day());
    let text = format!("{year:02}{month:02}{day:02}{:02}{:02}{:02}Z", time.hour(), time.minute(), time.second());
    tlv(0x17, &[text.as_bytes()])
}
