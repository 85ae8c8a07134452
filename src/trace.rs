//! Which operation a message belongs to, as W3C Trace Context says it (level 1).
//!
//! A message carries it in two headers, [`TRACEPARENT`] and [`TRACESTATE`], by the same names and in the same form as an HTTP request does. The bus
//! passes them on as they came, as all headers: live, kept in a stream and read again, delivered again, among dead letters, with a request. Who
//! handles a message reads them by [`Headers::trace`](crate::client::Headers::trace), works as a [child](TraceContext::child) of what they
//! name, and sends that on by [`Headers::with_trace`](crate::client::Headers::with_trace).
//!
//! What is not valid is taken for not there, as the specification says: tracing never makes a message fail.

use std::fmt::{self, Write as _};

use crate::error::{BusError, BusResult};

/// The header that names the trace and the operation within it.
pub const TRACEPARENT: &str = "traceparent";

/// The header with what tracing systems add to it, each for itself.
pub const TRACESTATE: &str = "tracestate";

/// Bytes of a [`TRACESTATE`] that are passed on: as many as the specification asks for at the least. Of a longer one, members of more than 128
/// bytes go first, and then those at its end.
pub const TRACESTATE_BYTES: usize = 512;

/// Members of a [`TRACESTATE`], by the specification. One with more is not valid.
pub const TRACESTATE_MEMBERS: usize = 32;

/// Bytes of a member beyond which it is the first to go where there is too much.
const LARGE_MEMBER: usize = 128;

/// Bytes of a traceparent of version 00, and the least of later ones.
const LENGTH: usize = 55;

/// The flag that the caller may have recorded the operation; others are not known to version 00.
const SAMPLED: u8 = 1;

/// An operation within a trace.
///
/// # Examples
/// ```
/// use whispeer::trace::TraceContext;
///
/// let received = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let caller = TraceContext::parse(received, Some("congo=t61rcWkgMzE")).expect("it is valid");
/// assert!(caller.is_sampled());
/// assert_eq!(caller.to_string(), received);
///
/// // What is done for it is an operation of its own in the same trace.
/// let own = caller.child()?;
/// assert_eq!(own.trace_id(), caller.trace_id());
/// assert_ne!(own.parent_id(), caller.parent_id());
/// assert_eq!(own.tracestate(), Some("congo=t61rcWkgMzE"));
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    is_sampled: bool,
    /// Empty for none.
    state: String,
}

impl TraceContext {
    /// The first operation of a new trace, with ids that are drawn at random.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] where the system gives no random numbers.
    pub fn begin(is_sampled: bool) -> BusResult<Self> {
        Ok(Self { trace_id: random()?, parent_id: random()?, is_sampled, state: String::new() })
    }

    /// Reads the two headers. `None` where the first is not valid: the second counts for nothing then. A second that is not valid is
    /// taken for not there.
    ///
    /// Of a version later than 00 what version 00 knows is taken, so that it is [written](Self#impl-Display-for-TraceContext) as version 00.
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        let version = hexadecimal::<1>(bytes.get(..2)?)?;
        let is_whole = match (version, bytes.get(LENGTH)) {
            ([0xff], _) => false,
            ([0], further) => further.is_none(),
            (_, further) => further.is_none_or(|further| *further == b'-'),
        };
        let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        if !is_whole || !dashes {
            return None;
        }
        let trace_id = hexadecimal(bytes.get(3..35)?)?;
        let parent_id = hexadecimal(bytes.get(36..52)?)?;
        let [flags] = hexadecimal(bytes.get(53..LENGTH)?)?;
        let state = tracestate.and_then(state).unwrap_or_default();
        Self::new(trace_id, parent_id, flags & SAMPLED != 0).map(|context| Self { state, ..context })
    }

    /// An operation with these ids, as a tracing system has given them; `None` where one is all zeros, which names nothing.
    #[must_use]
    pub fn new(trace_id: [u8; 16], parent_id: [u8; 8], is_sampled: bool) -> Option<Self> {
        let names = trace_id != [0; 16] && parent_id != [0; 8];
        names.then(|| Self { trace_id, parent_id, is_sampled, state: String::new() })
    }

    /// An operation that is done for this one: another of the same trace, with an id that is drawn at random.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] where the system gives no random numbers.
    pub fn child(&self) -> BusResult<Self> {
        Ok(Self { parent_id: random()?, ..self.clone() })
    }

    /// The trace. It is never all zeros.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The operation within it, as whoever sent this calls it: the parent of what is done for it. It is never all zeros.
    #[must_use]
    pub fn parent_id(&self) -> [u8; 8] {
        self.parent_id
    }

    /// Whether whoever sent this may have recorded it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// The header [`TRACESTATE`], if there is one: at most [`TRACESTATE_BYTES`].
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        (!self.state.is_empty()).then_some(self.state.as_str())
    }
}

/// The header [`TRACEPARENT`], in version 00. Flags that this version does not know are 0.
impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("00-")?;
        self.trace_id.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_char('-')?;
        self.parent_id.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        write!(formatter, "-{:02x}", u8::from(self.is_sampled))
    }
}

/// Lower-case digits, two for each byte.
fn hexadecimal<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(bytes)
}

/// Random bytes that are not all zeros.
fn random<const N: usize>() -> BusResult<[u8; N]> {
    let mut bytes = [0; N];
    while bytes == [0; N] {
        getrandom::fill(&mut bytes).map_err(|error| {
            BusError::InvalidSettings(format!("the system's random generator does not work: {error}"))
        })?;
    }
    Ok(bytes)
}

/// What is passed on of a tracestate; `None` where it is not valid. Members that are empty are left out, as white space around them is.
fn state(text: &str) -> Option<String> {
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
    let mut members: Vec<&str> =
        members.filter(|member| !member.is_empty()).take(TRACESTATE_MEMBERS + 1).collect();
    if members.len() > TRACESTATE_MEMBERS || !members.iter().all(|member| is_member(member)) {
        return None;
    }
    let size =
        |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1);
    if size(&members) > TRACESTATE_BYTES {
        members.retain(|member| member.len() <= LARGE_MEMBER);
    }
    while size(&members) > TRACESTATE_BYTES {
        members.pop();
    }
    Some(members.join(","))
}

/// Whether this is a key, `=` and a value.
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let is_key = match key.split_once('@') {
        None => is_name(key, 256, |first| first.is_ascii_lowercase()),
        Some((tenant, system)) => {
            is_name(tenant, 241, |first| first.is_ascii_lowercase() || first.is_ascii_digit())
                && is_name(system, 14, |first| first.is_ascii_lowercase())
        }
    };
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    is_key && (1..=256).contains(&value.len()) && value.bytes().all(is_printable) && !value.ends_with(' ')
}

/// Whether this is a part of a key: so long at the most, with such a first character.
fn is_name(text: &str, most: usize, is_first: impl Fn(u8) -> bool) -> bool {
    let is_further = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte);
    text.len() <= most && text.bytes().next().is_some_and(is_first) && text.bytes().all(is_further)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The specification's own.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn state_of(tracestate: &str) -> Option<String> {
        TraceContext::parse(EXAMPLE, Some(tracestate)).unwrap().tracestate().map(str::to_owned)
    }

    #[test]
    fn the_examples_of_the_specification_are_read_and_written() {
        let context = TraceContext::parse(EXAMPLE, None).unwrap();
        assert_eq!(context.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
        assert_eq!(context.parent_id(), 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), EXAMPLE);
        let context = TraceContext::parse(NOT_SAMPLED, None).unwrap();
        assert!(!context.is_sampled());
        assert_eq!(context.to_string(), NOT_SAMPLED);
        for tracestate in
            ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "congo=ucfJifl5GOE,rojo=00f067aa0ba902b7"]
        {
            assert_eq!(state_of(tracestate).as_deref(), Some(tracestate));
        }
    }

    #[test]
    fn what_is_no_traceparent_is_taken_for_not_there() {
        for traceparent in [
            "",
            "00",
            "00-",
            // Another version than there can be.
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            // All zeros.
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            // Upper case, and no digits.
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
            "0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
            // Too short, too long, and divided otherwise.
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é",
        ] {
            assert_eq!(TraceContext::parse(traceparent, Some("congo=1")), None, "{traceparent}");
        }
    }

    #[test]
    fn of_a_later_version_what_is_known_is_taken() {
        for (traceparent, written) in [
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", EXAMPLE),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-holds", EXAMPLE),
            ("fe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-08", NOT_SAMPLED),
            // Flags that nobody knows yet.
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", EXAMPLE),
        ] {
            let context = TraceContext::parse(traceparent, None).unwrap();
            assert_eq!(context.to_string(), written, "{traceparent}");
        }
    }

    #[test]
    fn a_tracestate_that_is_none_leaves_the_rest_as_it_is() {
        let long = |length: usize| "a".repeat(length);
        for tracestate in [
            "foo",
            "=1",
            "foo=",
            "foo=1=2",
            "foo@=1",
            "@foo=1",
            "foo@@bar=1",
            "foo@1bar=1",
            "Foo=1",
            "1foo=1",
            "foo bar=1",
            "foo =1",
            "foo=b\u{7f}r",
            "foo=bär",
            &format!("{}=1", long(257)),
            &format!("{}@v=1", long(242)),
            &format!("t@{}=1", long(15)),
            &format!("foo={}", long(257)),
            &vec!["a=1"; 33].join(","),
        ] {
            assert_eq!(state_of(tracestate), None, "{tracestate}");
        }
        for (tracestate, passed) in [
            ("foo=1", "foo=1"),
            ("foo=1 \t , \tbar=2,", "foo=1,bar=2"),
            (",, ,foo=1", "foo=1"),
            ("1a-b*c/d_e@system-1=x y!", "1a-b*c/d_e@system-1=x y!"),
            ("foo= leading", "foo= leading"),
            ("foo=1,foo=2", "foo=1,foo=2"),
        ] {
            assert_eq!(state_of(tracestate).as_deref(), Some(passed), "{tracestate}");
        }
        assert_eq!(state_of(""), None);
        assert_eq!(state_of(&vec!["a=1"; 32].join(",")).map(|state| state.len()), Some(127));
    }

    #[test]
    fn of_a_long_tracestate_large_members_go_first_and_then_the_last() {
        let large = format!("large={}", "x".repeat(200));
        let small = |number: usize| format!("small{number}={}", "x".repeat(90));
        let kept: Vec<_> = (0..5).map(small).collect();
        let all = [&[small(0), large][..], &kept[1..]].concat().join(",");
        assert_eq!(state_of(&all), Some(kept.join(",")));
        let more = (0..8).map(small).collect::<Vec<_>>().join(",");
        assert_eq!(state_of(&more), Some(kept.join(",")));
        let only = format!("a={}", "x".repeat(256));
        assert_eq!(state_of(&only), Some(only.clone()), "one alone may be as large as a member can be");
    }

    #[test]
    fn a_trace_that_begins_has_ids_of_its_own() {
        let (one, other) = (TraceContext::begin(true).unwrap(), TraceContext::begin(false).unwrap());
        assert_ne!(one.trace_id(), other.trace_id());
        assert!(one.is_sampled() && !other.is_sampled());
        let child = one.child().unwrap();
        assert_eq!((child.trace_id(), child.is_sampled()), (one.trace_id(), true));
        assert_ne!(child.parent_id(), one.parent_id());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            trace_id in any::<[u8; 16]>(), parent_id in any::<[u8; 8]>(), is_sampled: bool,
        ) {
            let Some(context) = TraceContext::new(trace_id, parent_id, is_sampled) else {
                return Err(TestCaseError::reject("all zeros"));
            };
            let written = context.to_string();
            prop_assert_eq!(written.len(), LENGTH);
            prop_assert_eq!(TraceContext::parse(&written, None), Some(context));
        }

        #[test]
        fn nothing_panics_and_all_that_is_passed_on_is_valid(traceparent in ".{0,80}", tracestate in ".{0,600}") {
            let read = TraceContext::parse(&traceparent, Some(&tracestate));
            let again = read.as_ref().and_then(|read| TraceContext::parse(&read.to_string(), read.tracestate()));
            prop_assert_eq!(again, read);
        }

        #[test]
        fn a_tracestate_is_within_its_bounds_and_stays_as_it_is(
            members in prop::collection::vec(("[a-z][a-z0-9_*/-]{0,10}(@[a-z][a-z0-9]{0,5})?", "[ -+.-<>-~]{0,150}[!-+]"), 0..40),
        ) {
            let tracestate = members.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ,");
            let passed = state_of(&tracestate);
            prop_assert!(members.len() <= TRACESTATE_MEMBERS || passed.is_none());
            let passed = passed.unwrap_or_default();
            prop_assert!(passed.len() <= TRACESTATE_BYTES);
            prop_assert_eq!(state_of(&passed).unwrap_or_default(), passed);
        }

        #[test]
        fn one_character_that_is_another_is_never_taken_for_the_same(at in 0..LENGTH, other in prop::char::range(' ', '~')) {
            let mut changed = EXAMPLE.to_owned();
            changed.replace_range(at..=at, &other.to_string());
            let read = TraceContext::parse(&changed, None);
            // Versions and flags that are not known say the same.
            let is_same = read.as_ref().is_some_and(|read| read.to_string() == EXAMPLE);
            prop_assert!(!is_same || changed == EXAMPLE || !(2..=52).contains(&at), "{changed}");
        }
    }
}
