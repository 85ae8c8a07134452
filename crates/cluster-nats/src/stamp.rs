//! Where a message comes from, and its number there.
//!
//! NATS has a subject to reply to in each message. What buses send each other has the sender's address there, as it takes a fraction of
//! what a header does:
//!
//! ```text
//! whispeer.o.<bus>.<number>.<known>.<run>.<age>
//! ```
//!
//! | token | what it is |
//! |---|---|
//! | bus | the id of the link that sent it, 16 hexadecimal digits |
//! | number | the message's number in its topic, which grows by one with each |
//! | known | how many messages of the topic the sender has numbered before without having forgotten the topic |
//! | run | how many of these came before it without a second's rest |
//! | age | milliseconds since the first of these |
//!
//! A [batch](crate::batch) has one more, its count: the messages in it have the number and those that follow it.
//!
//! A number that follows another one is the next message; a greater one shows how many are missing. Who has seen none of a topic yet knows by
//! the run whether there were messages that he should have had.

use std::time::Duration;

/// The token before those of a stamp.
pub(crate) const TOKEN: &str = "o";

/// Where a message comes from, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The link that has sent it.
    pub(crate) origin: u64,
    /// Its number in its topic; from 1 on.
    pub(crate) number: u64,
    /// Messages of the topic that were numbered before it, since the sender has known the topic.
    pub(crate) known: u64,
    /// Those of them that came without a rest.
    pub(crate) run: u64,
    /// How long ago the first of these came.
    pub(crate) age: Duration,
    /// How many messages it is for, of which the first has the number.
    pub(crate) count: u64,
}

impl Stamp {
    /// As a subject to reply to, behind a prefix that ends with the token and a dot.
    pub(crate) fn write(&self, prefix: &str) -> String {
        let Self { origin, number, known, run, age, count } = self;
        let mut subject = String::with_capacity(prefix.len() + 64);
        subject.push_str(prefix);
        push_hex(&mut subject, *origin);
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        for part in [*number, *known, *run, age] {
            subject.push('.');
            push_decimal(&mut subject, part);
        }
        if *count != 1 {
            subject.push('.');
            push_decimal(&mut subject, *count);
        }
        subject
    }

    /// Reads a subject to reply to; `None` where that is something else.
    pub(crate) fn read(subject: &str, prefix: &str) -> Option<Self> {
        let mut tokens = subject.strip_prefix(prefix)?.split('.');
        let origin = tokens.next().filter(|token| token.len() == 16)?;
        let origin = u64::from_str_radix(origin, 16).ok()?;
        let mut next = || tokens.next()?.parse::<u64>().ok();
        let (number, known, run, age) = (next()?, next()?, next()?, next()?);
        let count = tokens.next().map_or(Some(1), |count| count.parse().ok().filter(|count| *count > 1))?;
        let is_sound =
            tokens.next().is_none() && number > known && known >= run && number.checked_add(count).is_some();
        is_sound.then_some(Self { origin, number, known, run, age: Duration::from_millis(age), count })
    }

    /// The number of the last message that it is for.
    pub(crate) fn last(&self) -> u64 {
        self.number.saturating_add(self.count.saturating_sub(1))
    }
}

/// Writes 16 digits. By hand, as each message has such a subject, and the formatter takes longer than all else of it.
fn push_hex(text: &mut String, number: u64) {
    for nibble in (0..16).rev() {
        let digit = (number >> (4 * nibble)) as u32 & 0xf;
        text.push(char::from_digit(digit, 16).unwrap_or('0'));
    }
}

/// Writes as many digits as there are.
fn push_decimal(text: &mut String, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        first -= 1;
        if number == 0 {
            break;
        }
    }
    text.extend(digits.iter().skip(first).map(|digit| char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(origin: u64, mut parts: [u64; 3], age: u32, count in 1_u64..1_000) {
            parts.sort_unstable();
            let [run, known, before] = parts;
            let age = Duration::from_millis(age.into());
            let stamp = Stamp { origin, number: (before | 1).max(known.saturating_add(1)), known: known.min(u64::MAX - 1), run: run.min(u64::MAX - 1), age, count };
            prop_assume!(stamp.number > stamp.known && stamp.number < u64::MAX - 1_000);
            let subject = stamp.write("shop.o.");
            prop_assert_eq!(Stamp::read(&subject, "shop.o."), Some(stamp));
            prop_assert_eq!(Stamp::read(&subject, "other.o."), None);
        }

        #[test]
        fn whatever_comes_is_read_or_not(subject in "\\PC*") {
            let _ = Stamp::read(&subject, "");
        }
    }

    #[test]
    fn it_is_written_in_sixteen_hexadecimal_digits_and_in_decimal_numbers() {
        let stamp = Stamp {
            origin: 0xff,
            number: u64::MAX,
            known: 10,
            run: 0,
            age: Duration::from_millis(907),
            count: 1,
        };
        assert_eq!(stamp.write("w.o."), "w.o.00000000000000ff.18446744073709551615.10.0.907");
        let batch = Stamp { number: 11, count: 30, ..stamp };
        assert_eq!(batch.write("w.o."), "w.o.00000000000000ff.11.10.0.907.30");
        assert_eq!(batch.last(), 40);
    }

    #[test]
    fn what_no_bus_has_written_is_no_stamp() {
        let sound = "w.o.00000000000000ff.3.2.1.20";
        assert!(Stamp::read(sound, "w.o.").is_some());
        for wrong in [
            "_INBOX.abc",
            "w.o.ff.3.2.1.20",
            "w.o.00000000000000ff.3.2.1",
            "w.o.00000000000000ff.3.2.1.20.5.5",
            "w.o.00000000000000ff.3.2.1.20.0",
            "w.o.00000000000000ff.3.2.1.20.1",
            "w.o.00000000000000ff.3.2.1.20.18446744073709551615",
            "w.o.00000000000000ff.3.3.1.20",
            "w.o.00000000000000ff.3.1.2.20",
            "w.o.00000000000000ff.0.0.0.0",
            "w.o.00000000000000ff.99999999999999999999.1.1.20",
            "w.o.+0000000000000ff.3.2.1.-20",
        ] {
            assert_eq!(Stamp::read(wrong, "w.o."), None, "{wrong}");
        }
    }
}
