//! What stands in the query of a request.
//!
//! Nothing there is passed over: a name that is not known, one that is there twice, and what is not UTF-8 are refused, so that
//! a mistake is not taken for the default.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;

use super::failure::Failure;
use crate::limits;

/// Names by which others would put a token into a URL, which ends in logs and in histories.
const TOKENS: [&str; 5] = ["access_token", "api_key", "authorization", "jwt", "token"];

/// The parameters of a query, in order.
#[derive(Debug)]
pub(super) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Those of a request, of which the operation has these.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Failure> {
        let mut pairs = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name)?;
            if TOKENS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(Failure::bad_request(
                    "token-in-url",
                    "no token is taken from a URL, as these are kept in logs and histories; send it as \
                     `Authorization: Bearer TOKEN`, and where that cannot be, get a ticket by POST /api/v1/ticket",
                ));
            }
            if !known.contains(&name.as_str()) {
                let name: String = name.chars().take(64).collect();
                return Err(Failure::bad_request(
                    "unknown-parameter",
                    format!("there is no parameter {name:?} here; there are: {}", known.join(", ")),
                ));
            }
            if pairs.len() == limits::API_PARAMETERS {
                return Err(Failure::bad_request(
                    "parameters",
                    format!("a query has {} parameters at the most", limits::API_PARAMETERS),
                ));
            }
            pairs.push((name, decoded(value)?));
        }
        Ok(Self { pairs })
    }

    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The one of that name, if there is one.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Failure> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (_, Some(_)) => Err(Failure::bad_request("parameters", format!("`{name}` is given twice"))),
            (value, None) => Ok(value),
        }
    }

    pub(super) fn required(&self, name: &str, example: &str) -> Result<&str, Failure> {
        let missing = || {
            Failure::bad_request(
                "parameters",
                format!("`{name}` is missing; say which, such as ?{name}={example}"),
            )
        };
        self.one(name)?.ok_or_else(missing)
    }

    pub(super) fn number<N>(&self, name: &str, range: RangeInclusive<N>) -> Result<Option<N>, Failure>
    where
        N: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            Failure::bad_request("parameters", format!("`{name}` is a whole number from {least} to {most}"))
        })
    }

    /// A time in seconds.
    pub(super) fn seconds(&self, name: &str, most: Duration) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        seconds(name, text.parse().unwrap_or(f64::NAN), most).map(Some)
    }
}

/// A time of so many seconds, if it is one.
pub(super) fn seconds(name: &str, seconds: f64, most: Duration) -> Result<Duration, Failure> {
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= most);
    time.ok_or_else(|| {
        Failure::bad_request(
            "parameters",
            format!("`{name}` is a number of seconds from 0 to {}", most.as_secs()),
        )
    })
}

/// A part of a query as it is meant, by the rules of forms (WHATWG URL, 5.1).
fn decoded(text: &str) -> Result<String, Failure> {
    let hex = |digit: Option<&u8>| digit.and_then(|digit| char::from(*digit).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match (hex(tail.first()), hex(tail.get(1))) {
                (Some(high), Some(low)) => {
                    bytes.push((high * 16 + low) as u8);
                    rest = tail.get(2..).unwrap_or_default();
                }
                // As a browser takes it.
                _ => bytes.push(b'%'),
            },
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).map_err(|error| {
        let shown: Cow<'_, str> = String::from_utf8_lossy(error.as_bytes());
        let shown: String = shown.chars().take(64).collect();
        Failure::bad_request("parameters", format!("{shown:?} in the query is not UTF-8"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Result<Params, String> {
        let uri = format!("/x?{query}").parse().unwrap();
        let code = |failure: Failure| format!("{:?}", failure.problem());
        Params::of(&uri, &["topic", "pattern", "limit", "timeout"]).map_err(code)
    }

    #[test]
    fn values_are_decoded_as_forms_are() {
        let params = params("topic=a%2Fb+c&pattern=%2A&&pattern=100%&limit=7").unwrap();
        assert_eq!(params.one("topic").unwrap(), Some("a/b c"));
        assert_eq!(params.all("pattern").collect::<Vec<_>>(), ["*", "100%"]);
        assert_eq!(params.number("limit", 1..=10).unwrap(), Some(7));
        assert_eq!(params.one("timeout").unwrap(), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (query, told) in [
            ("topics=a", "unknown-parameter"),
            ("access_token=x", "token-in-url"),
            ("Token=x", "token-in-url"),
            ("topic=%ff", "not UTF-8"),
        ] {
            let error = params(query).unwrap_err();
            assert!(error.contains(told), "{query}: {error}");
        }
        assert!(params(&"pattern=a&".repeat(limits::API_PARAMETERS)).is_ok());
        assert!(params(&"pattern=a&".repeat(limits::API_PARAMETERS + 1)).is_err());
        let twice = params("topic=a&topic=b").unwrap();
        assert!(twice.one("topic").is_err());
    }

    #[test]
    fn numbers_and_times_have_bounds() {
        for limit in ["0", "11", "-1", "1.5", "", "x", "99999999999999999999"] {
            assert!(
                params(&format!("limit={limit}")).unwrap().number("limit", 1..=10_u32).is_err(),
                "{limit}"
            );
        }
        let time = |text: &str| {
            params(&format!("timeout={text}")).unwrap().seconds("timeout", Duration::from_secs(9))
        };
        assert_eq!(time("0.25").unwrap(), Some(Duration::from_millis(250)));
        for text in ["-1", "9.1", "nan", "inf", "1e300", "", "1s"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
