//! Development certificates: a CA of one's own, and what it signs, as files in one folder.
//!
//! | file | what it holds |
//! |---|---|
//! | `names` | what a certificate may be for, and how files are called |
//! | `key` | private keys, which no output but their file ever sees |
//! | `details` | what a certificate says, read from its file |
//! | `authority` | the CA: signing certificates and the list of revocations |
//! | `revocations` | which serial numbers are revoked, read from `crl.pem` |
//! | `folder` | the files: modes, refusal to overwrite, writing in one step |
//! | `usage` | how to use what was made, line by line |
//!
//! Nothing is kept beside the certificates themselves: what a renewal needs stands in the certificate, and
//! what a revocation needs in the list.

pub(crate) mod authority;
pub(crate) mod details;
pub(crate) mod folder;
pub(crate) mod key;
pub(crate) mod names;
pub(crate) mod revocations;
pub(crate) mod usage;

use time::OffsetDateTime;

/// A time as a date for people: `2026-11-21`, in UTC.
pub(crate) fn date(time: OffsetDateTime) -> String {
    time.date().to_string()
}

/// A time for programs, by RFC 3339: `2026-11-21T12:30:00Z`.
pub(crate) fn timestamp(time: OffsetDateTime) -> String {
    let (hour, minute, second) = time.to_offset(time::UtcOffset::UTC).to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", time.date())
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let time = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        assert_eq!(date(time), "2023-11-14");
        assert_eq!(timestamp(time), "2023-11-14T22:13:20Z");
    }
}
