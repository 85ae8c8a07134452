//! Where things of a store lie at NATS.

use whispeer::store::Name;
use whispeer::topic::{Topic, TopicPattern};

use crate::subject::Subjects;

/// The subjects and streams of a store.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    subjects: Subjects,
}

/// What lies at a subject of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A message of a stream. Its topic, unless it was published to a pattern, which is in a header.
    Message(Name, Option<TopicPattern>),
    /// One that is kept until it is due, likewise.
    Delayed(Name, Option<TopicPattern>),
    /// A part of the payload of the message behind it.
    Piece(Name),
    /// What is done to a stream.
    Action(Name),
    /// What is told of the journal itself.
    Journal,
}

impl Addresses {
    pub(super) fn new(subjects: Subjects) -> Self {
        Self { subjects }
    }

    fn prefix(&self) -> &str {
        self.subjects.prefix()
    }

    /// What NATS calls the streams of this prefix: `-streams` for the journal.
    fn named(&self, what: &str) -> String {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
        let prefix: String =
            self.prefix().chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
        format!("{prefix}-{what}")
    }

    pub(super) fn journal(&self) -> String {
        self.named("streams")
    }

    pub(super) fn images(&self) -> String {
        self.named("images")
    }

    pub(super) fn of_journal(&self) -> Vec<String> {
        vec![format!("{}.s.>", self.prefix()), format!("{}.j.>", self.prefix())]
    }

    pub(super) fn of_images(&self) -> String {
        format!("{}.image.>", self.prefix())
    }

    /// A part of the image as it was behind this entry.
    pub(super) fn of_image(&self, at: u64, writer: u64, part: usize) -> String {
        format!("{}.image.{at}.{writer:016x}.{part}", self.prefix())
    }

    /// The entry up to which an image goes that lies there.
    pub(super) fn image_of(&self, subject: &str) -> Option<u64> {
        let rest = subject.strip_prefix(self.prefix())?.strip_prefix(".image.")?;
        rest.split('.').next()?.parse().ok()
    }

    /// What tells of images.
    pub(super) fn of_imaged(&self) -> String {
        format!("{}.j.image", self.prefix())
    }

    /// What writers tell of themselves.
    pub(super) fn of_writers(&self) -> String {
        format!("{}.j.writer", self.prefix())
    }

    fn of_stream(&self, stream: &Name) -> String {
        // A name has no `%`.
        format!("{}.s.{}", self.prefix(), stream.as_str().replace('.', "%2E"))
    }

    pub(super) fn of_message(&self, stream: &Name, topic: &TopicPattern) -> String {
        format!("{}.{}", self.of_stream(stream), self.tail(topic, "t"))
    }

    pub(super) fn of_delayed(&self, stream: &Name, topic: &TopicPattern) -> String {
        format!("{}.{}", self.of_stream(stream), self.tail(topic, "d"))
    }

    pub(super) fn of_piece(&self, stream: &Name) -> String {
        format!("{}.p", self.of_stream(stream))
    }

    pub(super) fn of_action(&self, stream: &Name) -> String {
        format!("{}.c", self.of_stream(stream))
    }

    /// The tokens of a topic behind this one; what is published to a pattern has one of its own, and its topic elsewhere.
    fn tail(&self, topic: &TopicPattern, token: &str) -> String {
        let Ok(topic) = Topic::new(topic.as_str()) else { return format!("{token}w") };
        let subject = self.subjects.of_topic(&topic);
        let fragments = subject.get(self.prefix().len() + 2..).unwrap_or_default();
        format!("{token}{fragments}")
    }

    /// What lies there; `None` for what no whispeer has put there.
    pub(super) fn read(&self, subject: &str) -> Option<Place> {
        let rest = subject.strip_prefix(self.prefix())?;
        if rest.starts_with(".j.") {
            return Some(Place::Journal);
        }
        let (name, rest) = rest.strip_prefix(".s.")?.split_once('.')?;
        let name = Name::new(&name.replace("%2E", ".")).ok()?;
        let (kind, fragments) = rest.split_at_checked(rest.find('.').unwrap_or(rest.len()))?;
        let topic = || {
            let topic = self.subjects.topic_of(&format!("{}.t{fragments}", self.prefix()))?;
            TopicPattern::new(topic.as_str()).ok()
        };
        Some(match kind {
            "t" => Place::Message(name, Some(topic()?)),
            "tw" if fragments.is_empty() => Place::Message(name, None),
            "d" => Place::Delayed(name, Some(topic()?)),
            "dw" if fragments.is_empty() => Place::Delayed(name, None),
            "p" if fragments.is_empty() => Place::Piece(name),
            "c" if fragments.is_empty() => Place::Action(name),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_a_subject_is_found_there() {
        let addresses = Addresses::new(Subjects::new("shop.buses").unwrap());
        assert_eq!(addresses.journal(), "shop_buses-streams");
        let stream = Name::new("orders.v1").unwrap();
        for (topic, tail) in
            [("", "t"), ("a/b.c", "t.a.b%2Ec"), ("$dead/s", "t.$dead.s"), ("a/*", "tw"), ("**", "tw")]
        {
            let topic = TopicPattern::new(topic).unwrap();
            let plain = Topic::new(topic.as_str()).is_ok().then(|| topic.clone());
            let subject = addresses.of_message(&stream, &topic);
            if topic.as_str() != "a/b.c" {
                assert_eq!(subject, format!("shop.buses.s.orders%2Ev1.{tail}"));
            }
            assert_eq!(addresses.read(&subject), Some(Place::Message(stream.clone(), plain.clone())));
            let delayed = addresses.of_delayed(&stream, &topic);
            assert_eq!(addresses.read(&delayed), Some(Place::Delayed(stream.clone(), plain)));
        }
        assert_eq!(addresses.read(&addresses.of_piece(&stream)), Some(Place::Piece(stream.clone())));
        assert_eq!(addresses.read(&addresses.of_action(&stream)), Some(Place::Action(stream)));
        assert_eq!(addresses.read(&addresses.of_imaged()), Some(Place::Journal));
        for other in
            ["shop.buses.s.orders", "shop.buses.s.orders.x", "shop.buses.s.orders.c.d", "other.s.a.t"]
        {
            assert_eq!(addresses.read(other), None, "{other}");
        }
    }
}
