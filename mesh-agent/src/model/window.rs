//! Hours of the week in a time zone. The wall clock there decides, so that a change to summer time needs no rule of its own.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};

/// Minutes of a day.
pub const DAY_MINUTES: u16 = 24 * 60;

/// From `from` on some days until `to`, on the next day if that is not later.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TimeWindow {
    /// The days on which it begins, Monday first.
    pub days: [bool; 7],
    /// The minute of the day at which it begins; below [`DAY_MINUTES`].
    pub from: u16,
    /// The first minute of the day that it leaves out; at most [`DAY_MINUTES`], and never `from`.
    pub to: u16,
    /// Whose wall clock is meant.
    pub time_zone: TimeZone,
}

impl TimeWindow {
    /// Whether `now` is inside.
    pub fn contains(&self, now: Timestamp) -> bool {
        let (day, minute) = self.local(now);
        self.contains_minute(day, minute)
    }

    /// The day, Monday being 0, and the minute of the day that its wall clock shows.
    pub fn local(&self, now: Timestamp) -> (usize, u16) {
        let local = now.to_zoned(self.time_zone.clone());
        (day_of(local.weekday()), minute_of(local.time()))
    }

    /// Whether a minute of the week is inside; Monday is day 0.
    pub fn contains_minute(&self, day: usize, minute: u16) -> bool {
        let (today, yesterday) = (self.days[day % 7], self.days[(day + 6) % 7]);
        if self.from < self.to {
            return today && (self.from..self.to).contains(&minute);
        }
        (today && minute >= self.from) || (yesterday && minute < self.to)
    }

    /// When it begins or ends next; `None` if it does neither any more, like one that is always.
    pub fn next_edge(&self, now: Timestamp) -> Option<Timestamp> {
        let local = now.to_zoned(self.time_zone.clone());
        let days = (-1..=8).filter_map(|day: i64| local.date().checked_add(day.days()).ok());
        let edges = days.flat_map(|date| [self.from, self.to].map(|minute| (date, minute)));
        let edges = edges.flat_map(|(date, minute)| self.moments(date, minute));
        // Clocks that are changed may jump into it or out of it.
        let change = self.time_zone.following(now).next().map(|change| change.timestamp());
        edges.chain(change).filter(|edge| *edge > now).filter(|edge| self.turns_at(*edge)).min()
    }

    /// An hour that comes twice has two.
    fn moments(&self, date: Date, minute: u16) -> impl Iterator<Item = Timestamp> + use<> {
        let midnight = date.to_datetime(Time::midnight());
        let local = midnight.checked_add(i64::from(minute).minutes()).ok();
        let ambiguous = local.map(|local| self.time_zone.to_ambiguous_zoned(local));
        let earlier = ambiguous.clone().and_then(|ambiguous| ambiguous.earlier().ok());
        let later = ambiguous.and_then(|ambiguous| ambiguous.later().ok());
        [earlier, later].into_iter().flatten().map(|moment: Zoned| moment.timestamp())
    }

    /// A window on some days has no edge on the others.
    fn turns_at(&self, edge: Timestamp) -> bool {
        let before = edge.checked_sub(1.nanosecond());
        before.is_ok_and(|before| self.contains(before) != self.contains(edge))
    }
}

fn day_of(day: Weekday) -> usize {
    usize::from(day.to_monday_zero_offset().unsigned_abs())
}

fn minute_of(time: Time) -> u16 {
    u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZoneDatabase;

    fn window(days: &str, from: u16, to: u16, zone: &str) -> TimeWindow {
        let days = std::array::from_fn(|day| days.as_bytes()[day] == b'x');
        TimeWindow { days, from: from * 60, to: to * 60, time_zone: TimeZoneDatabase::bundled().get(zone).unwrap() }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn office_hours_are_those_of_the_time_zone() {
        let office = window("xxxxx--", 8, 18, "Europe/Berlin");
        // A Monday; Berlin is an hour ahead of UTC.
        for (now, inside) in [
            ("2026-11-23T06:59:59Z", false),
            ("2026-11-23T07:00:00Z", true),
            ("2026-11-23T16:59:59Z", true),
            ("2026-11-23T17:00:00Z", false),
            ("2026-11-22T12:00:00Z", false),
        ] {
            assert_eq!(office.contains(at(now)), inside, "{now}");
        }
        assert_eq!(office.next_edge(at("2026-11-23T08:00:00Z")), Some(at("2026-11-23T17:00:00Z")));
        assert_eq!(office.next_edge(at("2026-11-27T18:00:00Z")), Some(at("2026-11-30T07:00:00Z")));
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let friday_night = window("----x--", 22, 6, "UTC");
        for (now, inside) in [
            ("2026-11-27T05:00:00Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:59Z", true),
            ("2026-11-28T22:30:00Z", false),
        ] {
            assert_eq!(friday_night.contains(at(now)), inside, "{now}");
        }
        assert_eq!(friday_night.next_edge(at("2026-11-27T23:00:00Z")), Some(at("2026-11-28T06:00:00Z")));
    }

    #[test]
    fn a_whole_day_ends_at_midnight() {
        let sunday = window("------x", 0, 24, "UTC");
        assert!(sunday.contains(at("2026-11-22T23:59:59Z")) && !sunday.contains(at("2026-11-23T00:00:00Z")));
        assert_eq!(sunday.next_edge(at("2026-11-22T12:00:00Z")), Some(at("2026-11-23T00:00:00Z")));
        assert_eq!(window("xxxxxxx", 0, 24, "UTC").next_edge(at("2026-11-22T12:00:00Z")), None);
    }

    #[test]
    fn what_ends_in_the_hour_that_is_left_out_ends_when_the_clocks_change() {
        let mut early = window("xxxxxxx", 1, 2, "Europe/Berlin");
        early.to += 30;
        // On 28 March 2027 Berlin goes from 02:00 to 03:00 at 01:00 UTC.
        assert!(early.contains(at("2027-03-28T00:59:59Z")) && !early.contains(at("2027-03-28T01:00:00Z")));
        assert_eq!(early.next_edge(at("2027-03-28T00:30:00Z")), Some(at("2027-03-28T01:00:00Z")));
    }

    #[test]
    fn an_hour_that_comes_twice_counts_twice() {
        let early = window("xxxxxxx", 2, 3, "Europe/Berlin");
        // On 25 October 2026 Berlin has 02:00 to 03:00 from 00:00 UTC to 02:00 UTC.
        let edges: Vec<_> = std::iter::successors(Some(at("2026-10-24T12:00:00Z")), |now| early.next_edge(*now))
            .skip(1)
            .take(2)
            .collect();
        assert_eq!(edges, [at("2026-10-25T00:00:00Z"), at("2026-10-25T02:00:00Z")]);
    }
}
