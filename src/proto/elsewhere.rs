//! What is served at other buses, as who joins a bus to them tells it.

use super::fields::{Field, iterate};
use super::wire::Reader;
use super::{ContentRef, MalformedFrame};
use crate::topic::{Topic, TopicPattern};

/// The topic that a request between buses is for: what it is sent to, or, where that is a pattern, the one that its first `TOPIC` field
/// names, as long as the pattern meets it. `None` where it says none.
///
/// # Examples
/// ```
/// use whispeer::proto::fields::FieldsBuilder;
/// use whispeer::proto::{ContentRef, topic_of_request};
///
/// let mut fields = FieldsBuilder::new();
/// fields.topic("sensor/1")?;
/// let content = ContentRef::lent(fields.as_bytes(), b"sensor/*", b"");
/// assert_eq!(topic_of_request(&content).expect("it names one").as_str(), "sensor/1");
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[must_use]
pub fn topic_of_request(content: &ContentRef<'_>) -> Option<Topic> {
    let pattern = TopicPattern::new(str::from_utf8(content.topic).ok()?).ok()?;
    if let Ok(topic) = Topic::try_from(pattern.clone()) {
        return Some(topic);
    }
    let named = iterate(content.fields).find_map(|field| match field {
        Field::Topic(topic) => Some(topic),
        _ => None,
    });
    let topic = Topic::new(named?).ok()?;
    pattern.meets(&topic.clone().into()).then_some(topic)
}

/// The topics that are served at other buses and meet a pattern: the payload of a reply of `$bus/uplink/topics`.
///
/// ```text
/// +----------+--------+-------+--------+-------+
/// | left out | length | topic | length | topic | …
/// | u32      | u16    |       | u16    |       |
/// +----------+--------+-------+--------+-------+
/// ```
///
/// # Examples
/// ```
/// use whispeer::proto::ServedElsewhere;
/// use whispeer::topic::Topic;
///
/// let told = ServedElsewhere { topics: vec![Topic::new("sensor/1")?], left_out: 0 };
/// assert_eq!(ServedElsewhere::decode(&told.encode())?, told);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServedElsewhere {
    /// The topics. One that several buses serve stands here once.
    pub topics: Vec<Topic>,
    /// How many more were named that did not find room. One that several buses serve may count as often.
    pub left_out: u32,
}

impl ServedElsewhere {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = self.left_out.to_le_bytes().to_vec();
        for topic in &self.topics {
            let topic = topic.as_str().as_bytes();
            // A topic has no more than `limits::MAX_TOPIC_BYTES`.
            payload.extend_from_slice(&u16::try_from(topic.len()).unwrap_or(u16::MAX).to_le_bytes());
            payload.extend_from_slice(topic);
        }
        payload
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`MalformedFrame`] for one that is cut off, and for what is no topic.
    pub fn decode(payload: &[u8]) -> Result<Self, MalformedFrame> {
        const CUT_OFF: &str = "topics that are cut off";
        let mut reader = Reader::new(payload, CUT_OFF);
        let left_out = reader.u32()?;
        let mut rest = reader.rest();
        let mut topics = Vec::new();
        while !rest.is_empty() {
            let mut reader = Reader::new(rest, CUT_OFF);
            let length = usize::from(reader.u16()?);
            let topic = Topic::from_utf8(reader.bytes(length)?);
            topics.push(topic.map_err(|_| MalformedFrame::Content("topics of which one is none"))?);
            rest = reader.rest();
        }
        Ok(Self { topics, left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::FieldsBuilder;
    use super::*;

    #[test]
    fn a_request_to_a_pattern_is_for_the_topic_that_it_names_if_the_pattern_meets_that() {
        let topic_of = |sent_to: &str, named: &[&str]| {
            let mut fields = FieldsBuilder::new();
            named.iter().for_each(|topic| fields.topic(topic).unwrap());
            let content = ContentRef::lent(fields.as_bytes(), sent_to.as_bytes(), &[]);
            topic_of_request(&content).map(|topic| topic.to_string())
        };
        assert_eq!(topic_of("sensor/*", &["sensor/1", "sensor/2"]).as_deref(), Some("sensor/1"));
        assert_eq!(
            topic_of("sensor/1", &["sensor/2"]).as_deref(),
            Some("sensor/1"),
            "the pattern is a topic"
        );
        for (sent_to, named) in
            [("sensor/*", &[][..]), ("sensor/*", &["secret"]), ("*", &["*"]), ("a b", &["a"])]
        {
            assert_eq!(topic_of(sent_to, named), None, "{sent_to} {named:?}");
        }
    }

    #[test]
    fn topics_that_are_cut_off_or_none_are_refused() {
        let topics = ["a", "sensor/1"].map(|topic| Topic::new(topic).unwrap()).to_vec();
        let told = ServedElsewhere { topics, left_out: 3 }.encode();
        for end in 0..told.len() {
            let whole = [4, 7].contains(&end);
            assert_eq!(ServedElsewhere::decode(&told[..end]).is_ok(), whole, "{end}");
        }
        let pattern = [&[0, 0, 0, 0, 1, 0][..], b"*"].concat();
        assert!(ServedElsewhere::decode(&pattern).is_err());
    }
}
