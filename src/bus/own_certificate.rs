//! The bus's own certificate, of whose end the log tells in time.
//!
//! It is told when the bus starts, when files are read again, and once a day. A bus goes on with a certificate that
//! has ended: sessions that there are lose nothing, and clients need not be strict.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::Shared;
use crate::limits;

/// When it was last told that the certificate ends.
#[derive(Debug, Default)]
struct Reminder {
    last: Option<SystemTime>,
    /// It had ended by then.
    has_ended: bool,
}

impl Reminder {
    /// Whether it is to be told now.
    fn is_due(&mut self, until: SystemTime, now: SystemTime) -> bool {
        let Some(left) = left(until, now) else {
            *self = Self::default();
            return false;
        };
        // A clock that was set back is no reason to be silent.
        let is_recent = self.last.is_some_and(|last| {
            now.duration_since(last).is_ok_and(|since| since < limits::CERTIFICATE_WARNING_INTERVAL)
        });
        let has_ended = left.is_zero();
        if is_recent && self.has_ended == has_ended {
            return false;
        }
        *self = Self { last: Some(now), has_ended };
        true
    }
}

/// What is left of a certificate that is about to end, nothing if it has ended.
fn left(until: SystemTime, now: SystemTime) -> Option<Duration> {
    let left = until.duration_since(now).unwrap_or_default();
    (left <= limits::CERTIFICATE_WARNING).then_some(left)
}

impl Shared {
    /// When the bus's own certificate ends, where it has one.
    pub(super) fn certificate_until(&self) -> Option<SystemTime> {
        #[cfg(feature = "tls")]
        return self.tls.as_ref().map(|tls| tls.until());
        #[cfg(not(feature = "tls"))]
        return None;
    }

    /// Tells in the log if the certificate is about to end, or has ended.
    pub(super) fn tell_certificate_end(&self, now: SystemTime) {
        let Some(left) = self.certificate_until().and_then(|until| left(until, now)) else { return };
        let hours = left.as_secs() / (60 * 60);
        match hours {
            _ if left.is_zero() => tracing::error!(
                "the certificate of this bus has expired, and clients refuse it; renew it, and have it read again (SIGHUP)"
            ),
            0..48 => tracing::warn!(
                "the certificate of this bus ends in {hours} hours; renew it, and have it read again (SIGHUP)"
            ),
            _ => tracing::warn!(
                "the certificate of this bus ends in {} days; renew it, and have it read again (SIGHUP)",
                hours / 24
            ),
        }
    }

    /// Does so now and then once a day, for as long as it is polled.
    pub(super) async fn remind_of_certificate_end(&self) {
        let mut reminder = Reminder::default();
        loop {
            let now = SystemTime::now();
            if self.certificate_until().is_some_and(|until| reminder.is_due(until, now)) {
                self.tell_certificate_end(now);
            }
            // The runtime's clock stands still while the host sleeps, that of the system does not.
            sleep(limits::EXPIRY_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_from_two_weeks_before_once_a_day_and_when_it_is_there() {
        let hours = |count: u64| Duration::from_secs(count * 60 * 60);
        let start = SystemTime::UNIX_EPOCH + hours(500_000);
        let until = start + hours(16 * 24) + hours(12);
        let mut reminder = Reminder::default();
        let told: Vec<u64> =
            (0..18 * 24).filter(|hour| reminder.is_due(until, start + hours(*hour))).collect();
        // The end is in the middle of the last day.
        let daily = (0..14).map(|day| 2 * 24 + 12 + day * 24);
        assert_eq!(told, daily.chain([16 * 24 + 12, 17 * 24 + 12]).collect::<Vec<_>>());
    }

    #[test]
    fn a_newer_certificate_and_a_clock_that_was_set_begin_anew() {
        let day = Duration::from_secs(24 * 60 * 60);
        let now = SystemTime::UNIX_EPOCH + 20_000 * day;
        let mut reminder = Reminder::default();
        assert!(reminder.is_due(now + day, now) && !reminder.is_due(now + day, now));
        assert!(!reminder.is_due(now + 400 * day, now));
        assert!(reminder.is_due(now + day, now));
        assert!(reminder.is_due(now + day, now - day), "the clock was set back");
    }
}
