//! TOML with secrets: whose the files have to be, and how little is left behind by reading them.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::error::{BusError, BusResult};

/// Reads the text of a file that is its owner's alone, with at most so many bytes.
pub(super) fn read(path: &Path, most: usize) -> Result<Zeroizing<String>, String> {
    let of_io = |error: io::Error| error.to_string();
    let file = open(path).map_err(of_io)?;
    let metadata = file.metadata().map_err(of_io)?;
    if !metadata.is_file() {
        return Err("it is no regular file; name one".to_owned());
    }
    check_owner(&metadata)?;
    // All at once, so that no copy of a secret is left behind by growing.
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX).min(most);
    let mut text = Zeroizing::new(String::with_capacity(length + 1));
    file.take(most as u64 + 1).read_to_string(&mut text).map_err(of_io)?;
    match text.len() > most {
        true => Err(format!("it has more than {most} bytes; check that the right file is named")),
        false => Ok(text),
    }
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    // A pipe that nobody writes to would hold this up until somebody does.
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    std::fs::OpenOptions::new().read(true).custom_flags(at_once).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Whoever owns a file can read and change it, whatever its mode says.
#[cfg(unix)]
fn check_owner(metadata: &std::fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;

    let own = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    if owner != own && owner != 0 {
        return Err(format!(
            "it belongs to user {owner}, who can change it, and this is user {own}; `chown {own} FILE`, or use a \
             file of your own"
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err("others than its owner can read it; `chmod 600 FILE`".to_owned());
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_owner(_metadata: &std::fs::Metadata) -> Result<(), String> {
    Ok(())
}

/// Reads TOML.
///
/// Nothing in it is copied unless it is written with escapes. If the text is no TOML at all, the parser keeps a copy of it
/// for a moment, which it does not overwrite.
pub(super) fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> BusResult<T> {
    let table = toml::de::DeTable::parse(text).map_err(|error| mistake(text, &error))?;
    // Errors of this one do not hold the text.
    T::deserialize(toml::Deserializer::from(table)).map_err(|error| mistake(text, &error))
}

/// What is wrong in a text, and where. What the error shows by itself contains the line, and what it says may quote what
/// stands there: a name or a value, which is a secret that has slipped if it is long.
fn mistake(text: &str, error: &toml::de::Error) -> BusError {
    let line = error.span().map(|at| {
        let before = text.as_bytes().get(..at.start).unwrap_or_default();
        format!("line {}: ", 1 + before.iter().filter(|byte| **byte == b'\n').count())
    });
    let said = error.message();
    let is_long = |word: &str| word.len() >= SECRET_WORD;
    let said = match said.split(|letter: char| !letter.is_ascii_alphanumeric()).any(is_long) {
        true => "something stands there that does not belong there, which is not shown",
        false => said,
    };
    BusError::InvalidSettings(format!("{}{said}", line.unwrap_or_default()))
}

/// Letters and digits in a row that no word of an error has: a half of a key in hexadecimal has twice as many.
const SECRET_WORD: usize = 24;

/// So many bytes, written as twice as many digits.
pub(super) struct Hexadecimal<const N: usize>(pub(super) Zeroizing<[u8; N]>);

impl<'de, const N: usize> Deserialize<'de> for Hexadecimal<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not by way of a `String`, which would be another copy.
        deserializer.deserialize_str(Digits).map(Self).map_err(|_| {
            // What stands there may be a secret, whatever is wrong with it.
            let what = format!("expected {} hexadecimal digits, which are not shown", 2 * N);
            de::Error::custom(what)
        })
    }
}

struct Digits<const N: usize>;

impl<const N: usize> Visitor<'_> for Digits<N> {
    type Value = Zeroizing<[u8; N]>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("hexadecimal digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        digits(text).ok_or_else(|| E::custom(""))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
        self.visit_str(&Zeroizing::new(text))
    }
}

/// The bytes that hexadecimal digits stand for.
pub(super) fn digits<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(bytes)
}

/// Adds bytes as hexadecimal digits.
pub(super) fn push_digits(bytes: &[u8], text: &mut String) {
    bytes.iter().for_each(|byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    });
}

#[cfg(test)]
mod tests {
    use serde::de::value::{BorrowedStrDeserializer, Error};

    use super::*;

    #[test]
    fn the_parser_copies_nothing_that_has_no_escapes() {
        #[derive(Deserialize)]
        struct Document<'a> {
            // What was copied could not be borrowed.
            key: &'a str,
        }

        let text = "key = \"00ff\"\n";
        let document: Document<'_> = parse(text).unwrap();
        assert!(text.as_bytes().as_ptr_range().contains(&document.key.as_ptr()));
        assert!(parse::<Document<'_>>("key = \"\\u0030\"").is_err());
    }

    #[test]
    fn digits_are_read_where_they_stand() {
        let read = |text| Hexadecimal::<2>::deserialize(BorrowedStrDeserializer::<Error>::new(text));
        assert_eq!(*read("09aF").unwrap().0, [0x09, 0xAF]);
        for wrong in ["", "09a", "09af0", "09ag", "+9af", "€a"] {
            let refused = read(wrong).err().unwrap().to_string();
            assert!(refused.contains("not shown") && (wrong.is_empty() || !refused.contains(wrong)));
        }
    }
}
