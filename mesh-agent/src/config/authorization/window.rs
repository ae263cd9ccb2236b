//! Lowers time windows. Time zones come from the data that is built in, so that every node knows the same ones.

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::super::walk::Node;
use crate::model::window::{DAY_MINUTES, TimeWindow};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Reads a time window; what is left out means always, and UTC.
pub(super) fn lower(node: &Node<'_>) -> Option<TimeWindow> {
    let known = ["days", "from", "to", "timeZone"];
    let fields = node.object(&known)?;
    if known[..3].iter().all(|name| fields.optional(name).is_none()) {
        node.refuse("is always, expected `days`, `from` or `to`");
    }
    let listed = fields.optional("days").map(|node| node.some_distinct(|item| item.parse(days)));
    let from = fields.optional("from").map_or(Some(0), |node| node.parse(minute));
    let to = fields.optional("to").map_or(Some(DAY_MINUTES), |node| node.parse(minute));
    let time_zone = fields.optional("timeZone").map_or(Some(TimeZone::UTC), |node| node.parse(zone));
    if let (Some(from), Some(to)) = (from, to)
        && (from == to || from == DAY_MINUTES)
    {
        node.refuse("ends when it begins; a whole day is from \"00:00\" to \"24:00\"");
    }
    let days = listed
        .map_or([true; 7], |listed| std::array::from_fn(|day| listed.iter().any(|listed: &[bool; 7]| listed[day])));
    Some(TimeWindow { days, from: from?, to: to?, time_zone: time_zone? })
}

/// `Mon`, or `Mon..Fri` with both ends; a range may go over the end of the week.
fn days(text: &str) -> Result<[bool; 7], String> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (Some(first), Some(last)) = (day(first), day(last)) else {
        return Err(format!("`{text}` is not a day like `Mon` or days like `Mon..Fri`"));
    };
    let length = (last + 7 - first) % 7;
    Ok(std::array::from_fn(|day| (day + 7 - first) % 7 <= length))
}

/// `HH:MM`, to `24:00`.
fn minute(text: &str) -> Result<u16, String> {
    let wrong = || format!("`{text}` is not a time of day like `08:00`");
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    let (hour, minute) =
        text.split_once(':').filter(|(hour, minute)| digits(hour) && digits(minute)).ok_or_else(wrong)?;
    let (hour, minute): (u16, u16) = (hour.parse().unwrap_or(u16::MAX), minute.parse().unwrap_or(u16::MAX));
    match (hour, minute) {
        (0..24, 0..60) | (24, 0) => Ok(hour * 60 + minute),
        _ => Err(wrong()),
    }
}

fn zone(text: &str) -> Result<TimeZone, String> {
    let found = TimeZoneDatabase::bundled().get(text);
    found.map_err(|_unexplained| format!("`{text}` is not a time zone like `Europe/Berlin`"))
}
