//! Sizes, durations, file modes and windows, as people write them.

use std::time::Duration;

/// Reads bytes: `4096`, `64KiB`, `16 MiB`, `1GiB`; `kB`, `MB` and `GB` are powers of a thousand.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => {
            return Err(format!(
                "\"{unit}\" is no unit of size; write bytes, KiB, MiB or GiB, such as 16MiB"
            ));
        }
    };
    let number: u64 =
        number.parse().map_err(|_| "write a whole number and a unit, such as 64KiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "that is more bytes than can be counted".to_owned())
}

/// Reads bytes that have to fit into memory.
pub(crate) fn memory(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| "that is more than this system can address".to_owned())
}

/// Reads a duration: `500ms`, `5s`, `1.5s`, `2m`, `1h`, `30d`; a number alone means seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("\"{unit}\" is no unit of time; write ms, s, m, h or d, such as 500ms")),
    };
    let number: f64 = number.parse().map_err(|_| "write a number and a unit, such as 5s".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "that is not a length of time".to_owned())
}

/// Reads permission bits in octal: `0660` or `660`.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("write permission bits in octal, such as 0660".to_owned()),
    }
}

/// A window as it is written: messages, and bytes where they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) messages: u32,
    pub(crate) bytes: Option<u64>,
}

/// Reads a window: `256`, or `256,4MiB`.
pub(crate) fn window(text: &str) -> Result<Window, String> {
    let (messages, bytes) = match text.split_once(',') {
        Some((messages, bytes)) => (messages, Some(size(bytes)?)),
        None => (text, None),
    };
    let messages = messages
        .trim()
        .parse()
        .map_err(|_| "write a number of messages, or messages and bytes such as 256,4MiB".to_owned())?;
    Ok(Window { messages, bytes })
}

/// Reads a header: `name=value`.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write a header as NAME=VALUE".to_owned()),
    }
}

/// Writes bytes with a unit and three digits: `1.50 MiB`.
pub(crate) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS.get(unit).copied().unwrap_or_default())
}

/// Writes bytes so that [`size`] reads the same number: `16MiB`, `1000`.
pub(crate) fn exact_size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = UNITS.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, name)| format!("{}{name}", bytes >> shift))
}

/// Writes a duration so that [`duration`] reads the same one: `1h`, `5s`, `250ms`.
pub(crate) fn exact_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    const UNITS: [(u128, &str); 5] = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    let unit = UNITS.iter().find(|(unit, _)| nanoseconds > 0 && nanoseconds.is_multiple_of(*unit));
    unit.map_or_else(
        || format!("{}s", duration.as_secs_f64()),
        |(unit, name)| format!("{}{name}", nanoseconds / unit),
    )
}

/// Writes a count with its thousands apart: `1,234,567`.
pub(crate) fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a duration for people: `1h 02m`, `3m 10s`, `12s`.
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("16 MiB"), Ok(16 << 20));
        assert_eq!(size("2kB"), Ok(2_000));
        assert!(size("12 parsecs").is_err());
        assert!(size("99999999999GiB").is_err());
        assert!(size("").is_err());
    }

    #[test]
    fn durations_have_units_and_default_to_seconds() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 24 * 60 * 60)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert!(duration("-1s").is_err());
        assert!(duration("soon").is_err());
    }

    #[test]
    fn modes_are_octal_permission_bits() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("600"), Ok(0o600));
        assert!(mode("888").is_err());
        assert!(mode("1777").is_err());
    }

    #[test]
    fn a_window_may_name_bytes_too() {
        assert_eq!(window("8"), Ok(Window { messages: 8, bytes: None }));
        assert_eq!(window("8,1MiB"), Ok(Window { messages: 8, bytes: Some(1 << 20) }));
        assert!(window("many").is_err());
    }

    #[test]
    fn what_is_written_exactly_reads_as_the_same() {
        for (bytes, text) in [(0, "0"), (1, "1"), (1024, "1KiB"), (3 << 29, "1536MiB"), (16 << 20, "16MiB")] {
            assert_eq!(exact_size(bytes), text);
            assert_eq!(size(text), Ok(bytes));
        }
        for (nanoseconds, text) in [
            (0, "0s"),
            (250_000_000, "250ms"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "90s"),
            (120_000_000_000, "2m"),
        ] {
            let time = Duration::from_nanos(nanoseconds);
            assert_eq!(exact_duration(time), text);
            assert_eq!(duration(text), Ok(time));
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(human_size(512), "512 B");
        assert_eq!(human_size(1536), "1.50 KiB");
        assert_eq!(human_size(512 << 20), "512 MiB");
        assert_eq!(human_count(1_234_567), "1,234,567");
        assert_eq!(human_count(12), "12");
        assert_eq!(human_duration(Duration::from_secs(3_725)), "1h 02m");
    }
}
