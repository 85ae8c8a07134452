//! Which channels there are, and which a token lists.

use whispeer::topic::TopicPattern;

use super::commands::Fault;

/// The topic or, where they are allowed, the pattern that a channel is.
///
/// # Errors
/// If it is none. The empty topic is none either: a client that names it has forgotten to.
pub(super) fn channel_of(text: &str, patterns: bool) -> Result<TopicPattern, Fault> {
    let channel = TopicPattern::new(text).map_err(|_| Fault::BadChannel)?;
    let fits = !text.is_empty() && (patterns || channel.is_concrete());
    if fits { Ok(channel) } else { Err(Fault::BadChannel) }
}

/// The channels that a token lists.
#[derive(Debug)]
pub(super) enum Listed {
    /// The list is empty: it restricts nothing.
    All,
    /// These. What is listed and is no channel is left out, and so may be all that was.
    These(Box<[TopicPattern]>),
}

impl Listed {
    pub(super) fn new(channels: &[String], patterns: bool) -> Self {
        if channels.is_empty() {
            return Self::All;
        }
        Self::These(channels.iter().filter_map(|channel| channel_of(channel, patterns).ok()).collect())
    }

    /// Whether a session may subscribe to it: all that it stands for is listed, and in one piece.
    pub(super) fn allows(&self, channel: &TopicPattern) -> bool {
        match self {
            Self::All => true,
            Self::These(listed) => listed.iter().any(|listed| listed.contains(channel)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(listed: &[&str], channel: &str, patterns: bool) -> bool {
        let listed: Vec<String> = listed.iter().map(|&one| one.to_owned()).collect();
        Listed::new(&listed, patterns).allows(&channel_of(channel, patterns).unwrap())
    }

    #[test]
    fn channels_are_topics_as_they_are_written() {
        for channel in ["chat:lobby", "notifications:user-123", "a/b", "{x}", "ä.ö~#?&=%", "$own/x"] {
            assert!(channel_of(channel, false).unwrap() == channel);
        }
        for channel in
            ["", "chat lobby", "a//b", "/a", "a/", "*", "a/*", "a/**", "a/+", "a*b", "tab\t", "nul\0"]
        {
            assert_eq!(channel_of(channel, false), Err(Fault::BadChannel), "{channel:?}");
        }
        assert_eq!(channel_of(&"x".repeat(100_000), false), Err(Fault::BadChannel));
    }

    #[test]
    fn patterns_are_channels_where_they_are_allowed() {
        assert!(channel_of("chat/+/**", true).unwrap() == "chat/*/**");
        assert_eq!(channel_of("a*b", true), Err(Fault::BadChannel));
        assert_eq!(channel_of("", true), Err(Fault::BadChannel));
    }

    #[test]
    fn a_token_allows_what_it_lists() {
        assert!(allows(&[], "chat:lobby", false));
        assert!(allows(&["news", "chat:lobby"], "chat:lobby", false));
        assert!(!allows(&["news", "chat:lobby"], "chat:lobby2", false));
    }

    #[test]
    fn a_list_of_nothing_that_is_a_channel_is_not_an_empty_one() {
        assert!(!allows(&["no channel"], "chat:lobby", false));
        assert!(!allows(&["**"], "chat:lobby", false), "patterns are not allowed");
    }

    #[test]
    fn a_pattern_allows_what_it_contains() {
        assert!(allows(&["chat/**"], "chat/a", true));
        assert!(allows(&["chat/**"], "chat/*/b", true));
        assert!(!allows(&["chat/*"], "chat/**", true));
        assert!(!allows(&["chat/a", "chat/b"], "chat/*", true));
        assert!(!allows(&["**"], "$bus/stats", true));
    }
}
