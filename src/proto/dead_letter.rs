//! How a dead letter says what it was.

use super::fields::{Field, iterate};

/// What the topics of dead letters begin with.
pub(crate) const TOPICS: &str = "$dead/";

/// What the names of the headers begin with that are put before those of a message when it becomes a dead letter.
pub(crate) const HEADERS: &str = "dead-";

/// The header that has the topic it was published to.
pub(crate) const TOPIC: &str = "dead-topic";

/// The topic that a dead letter with these fields was published to. The bus puts its headers first, so that one of this
/// name which the publisher has given counts for nothing.
pub(crate) fn original_topic(fields: &[u8]) -> Option<&str> {
    iterate(fields).find_map(|field| match field {
        Field::Header { name: TOPIC, value } => Some(value),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::fields::FieldsBuilder;

    #[test]
    fn the_first_header_says_of_which_topic_a_letter_was() {
        let mut fields = FieldsBuilder::new();
        fields.header("other", "x").unwrap();
        assert_eq!(original_topic(fields.as_bytes()), None);
        for topic in ["orders/7", "somewhere/else"] {
            fields.header(TOPIC, topic).unwrap();
        }
        assert_eq!(original_topic(fields.as_bytes()), Some("orders/7"));
    }
}
