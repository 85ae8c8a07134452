//! Where something lies in a stream, as text.

use whispeer::client::{Epoch, Start};

use super::failure::Failure;

/// A place in a stream: `EPOCH-SEQUENCE`, the epoch in 32 hexadecimal digits. By the epoch a stream is told from another of
/// the same name that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: Epoch,
    pub(super) sequence: u64,
}

impl Place {
    /// # Errors
    /// If it is none; `what` is what it is called.
    pub(super) fn read(text: &str, what: &str) -> Result<Self, Failure> {
        let read = || {
            let (epoch, sequence) = text.split_once('-')?;
            let is_hex = epoch.len() == 32 && epoch.bytes().all(|digit| digit.is_ascii_hexdigit());
            let is_number = sequence.bytes().all(|digit| digit.is_ascii_digit());
            let epoch = is_hex.then(|| u128::from_str_radix(epoch, 16).ok())??;
            let sequence = is_number.then(|| sequence.parse().ok())??;
            Some(Self { epoch: epoch.to_be_bytes(), sequence })
        };
        read().ok_or_else(|| {
            Failure::bad_request(
                "place",
                format!("`{what}` is no place in a stream; give one as it came, such as {EXAMPLE}"),
            )
        })
    }

    pub(super) fn push(self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.to_string().as_bytes());
    }
}

const EXAMPLE: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9-42";

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:032x}-{}", u128::from_be_bytes(self.epoch), self.sequence)
    }
}

/// Where to begin in a stream, as a query says it.
pub(super) fn start(text: &str) -> Result<Start, Failure> {
    let read = || {
        let (kind, number) = text.split_once(':').map_or((text, None), |(kind, number)| (kind, Some(number)));
        let is_number = |number: &&str| number.bytes().all(|digit| digit.is_ascii_digit());
        let number = || number.filter(is_number)?.parse().ok();
        Some(match kind {
            "new" if kind == text => Start::New,
            "all" if kind == text => Start::All,
            "last-per-topic" if kind == text => Start::LastPerTopic,
            "last" => Start::Last(number()?),
            "from" => Start::From(number()?),
            "since" => Start::Since(number()?),
            _ => return None,
        })
    };
    read().ok_or_else(|| {
        Failure::bad_request(
            "parameters",
            "`start` is `new`, `all`, `last:COUNT`, `last-per-topic`, `from:SEQUENCE` or `since:MILLISECONDS` \
             (since 1970, UTC)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_was_written_and_nothing_else_does() {
        let place = Place { epoch: [0x0a; 16], sequence: u64::MAX };
        assert_eq!(Place::read(&place.to_string(), "cursor").unwrap(), place);
        assert!(Place::read(EXAMPLE, "cursor").is_ok());
        let epoch = "0".repeat(32);
        for wrong in [
            "",
            "-",
            "7",
            &epoch,
            &format!("{epoch}-"),
            &format!("{epoch}-+7"),
            &format!("{epoch}-18446744073709551616"),
            &format!("+{}-7", &epoch[1..]),
            &format!("{epoch}0-7"),
        ] {
            assert!(Place::read(wrong, "cursor").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_start_is_a_word_with_a_number_where_it_takes_one() {
        for (text, expected) in [
            ("new", Start::New),
            ("all", Start::All),
            ("last-per-topic", Start::LastPerTopic),
            ("last:10", Start::Last(10)),
            ("from:7", Start::From(7)),
            ("since:1700000000000", Start::Since(1_700_000_000_000)),
        ] {
            assert_eq!(start(text).unwrap(), expected);
        }
        for wrong in ["", "new:1", "all:", "last", "last:", "last:-1", "last:+1", "from:x", "since", "later"]
        {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }
}
