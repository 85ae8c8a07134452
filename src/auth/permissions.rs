//! What a principal may do.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::TopicPattern;

/// The first fragment of the topics on which a bus answers about itself.
const INTROSPECTION: &str = "$bus";

/// What somebody does with a topic or a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Action {
    /// Publishing to it.
    Publish,
    /// Subscribing to it.
    Subscribe,
    /// Answering requests on it.
    Serve,
    /// Making requests on it.
    Request,
    /// Taking a consumer of a stream that belongs to somebody else. Its patterns are not of topics: they stand for
    /// names of consumers, as `STREAM/CONSUMER`.
    Consume,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 5] = [Self::Publish, Self::Subscribe, Self::Serve, Self::Request, Self::Consume];

    /// The name of its rule.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Serve => "serve",
            Self::Request => "request",
            Self::Consume => "consume",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Publish => "publishing to",
            Self::Subscribe => "subscribing to",
            Self::Serve => "serving",
            Self::Request => "making requests on",
            Self::Consume => "taking the consumer",
        })
    }
}

/// Which topics one action may touch.
///
/// Something is allowed when **one** of the `allow` patterns [contains](TopicPattern::contains) it and none of
/// the `deny` patterns [meets](TopicPattern::meets) it. So a wildcard is allowed only as a whole, and whatever
/// a wildcard is allowed for, each topic that it stands for is allowed too. By default nothing is.
///
/// A pattern stands for topics whose first fragment begins with `$` only if it begins with that very
/// fragment, whether it allows or denies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What is allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<TopicPattern>,
    /// What is not, even if it is allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<TopicPattern>,
}

impl Rule {
    /// A rule that allows these patterns and denies none.
    #[must_use]
    pub fn allowing(patterns: impl IntoIterator<Item = TopicPattern>) -> Self {
        Self { allow: patterns.into_iter().collect(), deny: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// What a principal may do. By default nothing.
///
/// In a configuration it looks like this; what is left out is not allowed:
///
/// ```toml
/// administer = false
/// publish.allow = ["sensors/kitchen/**"]
/// subscribe = { allow = ["sensors/**", "alarms/**"], deny = ["sensors/*/raw"] }
/// consume.allow = ["readings/archivers"]
/// ```
///
/// # Examples
/// ```
/// use whispeer::TopicPattern;
/// use whispeer::auth::{Action, Permissions, Rule};
///
/// let permissions = Permissions {
///     subscribe: Rule {
///         allow: vec![TopicPattern::new("news/**")?],
///         deny: vec![TopicPattern::new("news/drafts/**")?],
///     },
///     ..Permissions::default()
/// };
/// assert!(permissions.allows(Action::Subscribe, &TopicPattern::new("news/local/*")?).is_ok());
/// assert!(permissions.allows(Action::Subscribe, &TopicPattern::new("news/*/today")?).is_err());
/// let denied = permissions.allows(Action::Publish, &TopicPattern::new("news/local")?).unwrap_err();
/// assert_eq!(
///     denied.to_string(),
///     "publishing to \"news/local\" is not granted; it needs a permission to publish whose allow list has \
///      one pattern that covers all of it"
/// );
/// # Ok::<(), whispeer::topic::TopicError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Permissions {
    /// An administrator's right: to ask the bus about itself (`$bus/**`, unless a rule denies it) and to end
    /// it.
    pub administer: bool,
    /// What may be published to.
    #[serde(skip_serializing_if = "Rule::is_empty")]
    pub publish: Rule,
    /// What may be subscribed to.
    #[serde(skip_serializing_if = "Rule::is_empty")]
    pub subscribe: Rule,
    /// What may be served.
    #[serde(skip_serializing_if = "Rule::is_empty")]
    pub serve: Rule,
    /// What requests may be made on.
    #[serde(skip_serializing_if = "Rule::is_empty")]
    pub request: Rule,
    /// Which consumers of streams may be taken that belong to others, and which may not be taken at all, by
    /// `STREAM/CONSUMER`. It allows no subscribing; and nobody needs it for a consumer that is his own, or new.
    #[serde(skip_serializing_if = "Rule::is_empty")]
    pub consume: Rule,
}

impl Permissions {
    /// Everything that is not the bus's own, without the administrator's right: what anybody may do on a bus
    /// without authentication.
    #[must_use]
    pub fn unreserved() -> Self {
        let rule = || Rule::allowing([TopicPattern::everything()]);
        Self {
            administer: false,
            publish: rule(),
            subscribe: rule(),
            serve: rule(),
            request: rule(),
            consume: rule(),
        }
    }

    /// Everything: what the user may do whom the bus runs as.
    #[must_use]
    pub fn all() -> Self {
        Self { administer: true, ..Self::unreserved() }
    }

    /// What all of these allow together. What one of them denies is denied, whichever allows it.
    #[must_use]
    pub fn together<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let all: Vec<_> = all.into_iter().collect();
        let rule = |action| Rule {
            allow: distinct(all.iter().flat_map(|one| &one.rule(action).allow)),
            deny: distinct(all.iter().flat_map(|one| &one.rule(action).deny)),
        };
        Self {
            administer: all.iter().any(|one| one.administer),
            publish: rule(Action::Publish),
            subscribe: rule(Action::Subscribe),
            serve: rule(Action::Serve),
            request: rule(Action::Request),
            consume: rule(Action::Consume),
        }
    }

    /// The rule for an action.
    #[must_use]
    pub fn rule(&self, action: Action) -> &Rule {
        match action {
            Action::Publish => &self.publish,
            Action::Subscribe => &self.subscribe,
            Action::Serve => &self.serve,
            Action::Request => &self.request,
            Action::Consume => &self.consume,
        }
    }

    /// Whether the action is allowed on all that `topic` stands for.
    ///
    /// It takes a comparison with each pattern of the rule, of which there are at most
    /// [`PERMISSION_PATTERNS`](limits::PERMISSION_PATTERNS) of either sort in checked permissions.
    ///
    /// # Errors
    /// [`Denied`], which says what would be needed.
    pub fn allows(&self, action: Action, topic: &TopicPattern) -> Result<(), Denied> {
        let rule = self.rule(action);
        if !self.administers(action, topic) && !rule.allow.iter().any(|allowed| allowed.contains(topic)) {
            return Err(Denied { action, topic: topic.clone(), cause: Cause::NotGranted });
        }
        self.denial(action, topic).map_or(Ok(()), Err)
    }

    /// Why the action is not allowed whatever else is: some of what `topic` stands for is denied.
    pub(crate) fn denial(&self, action: Action, topic: &TopicPattern) -> Option<Denied> {
        let pattern = self.rule(action).deny.iter().find(|pattern| pattern.meets(topic))?;
        Some(Denied { action, topic: topic.clone(), cause: Cause::Excluded(pattern.clone()) })
    }

    /// Whether the bus may be asked about itself and ended.
    ///
    /// # Errors
    /// [`BusError::Denied`].
    pub fn allows_administering(&self) -> BusResult<()> {
        if self.administer {
            return Ok(());
        }
        let what = "administering the bus is not granted; it needs a permission with `administer = true`";
        Err(BusError::Denied { what: what.into() })
    }

    /// Whether there are no more patterns than may be, and those of consumers can stand for one.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] that names the list, or the pattern.
    pub fn check(&self) -> BusResult<()> {
        for action in Action::ALL {
            let rule = self.rule(action);
            for (list, patterns) in [("allow", &rule.allow), ("deny", &rule.deny)] {
                let (count, limit) = (patterns.len(), limits::PERMISSION_PATTERNS);
                if count > limit {
                    return Err(BusError::InvalidSettings(format!(
                        "the {list} list of {} has {count} patterns, more than the limit of {limit}; join some \
                         of them by wildcards",
                        action.name()
                    )));
                }
            }
        }
        let names = TopicPattern::new("*/*")?;
        match self.consume.allow.iter().chain(&self.consume.deny).find(|pattern| !pattern.meets(&names)) {
            Some(pattern) => Err(BusError::InvalidSettings(format!(
                "no consumer is called {:?}, which stands in consume; write STREAM/CONSUMER, where both may be `*`",
                pattern.as_str()
            ))),
            None => Ok(()),
        }
    }

    /// Whether the administrator's right covers it.
    fn administers(&self, action: Action, topic: &TopicPattern) -> bool {
        self.administer
            && matches!(action, Action::Subscribe | Action::Request)
            && topic.fragments().next() == Some(INTROSPECTION)
    }
}

/// The patterns in their order, once each.
fn distinct<'a>(patterns: impl Iterator<Item = &'a TopicPattern>) -> Vec<TopicPattern> {
    let mut seen = HashSet::new();
    patterns.filter(|pattern| seen.insert(*pattern)).cloned().collect()
}

/// An action that is not allowed, and what would be needed.
///
/// The text is fit for the peer that tried: it does not tell what else is allowed or denied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Denied {
    action: Action,
    topic: TopicPattern,
    cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    NotGranted,
    Excluded(TopicPattern),
}

impl Denied {
    /// What was tried.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// On what.
    #[must_use]
    pub fn topic(&self) -> &TopicPattern {
        &self.topic
    }

    /// The pattern that denies it; `None` if nothing allows it. For the log.
    #[must_use]
    pub fn denied_by(&self) -> Option<&TopicPattern> {
        match &self.cause {
            Cause::NotGranted => None,
            Cause::Excluded(pattern) => Some(pattern),
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, topic, cause } = self;
        let (name, text) = (action.name(), topic.as_str());
        match cause {
            Cause::NotGranted => {
                write!(
                    formatter,
                    "{action} {text:?} is not granted; it needs a permission to {name} whose allow list has \
                     one pattern that covers all of it"
                )?;
                match topic.fragments().next() {
                    Some(first) if topic.is_reserved() => {
                        write!(formatter, " and begins with {first:?}, which no wildcard stands for")
                    }
                    _ => Ok(()),
                }
            }
            Cause::Excluded(_) if topic.is_concrete() => {
                write!(
                    formatter,
                    "{action} {text:?} is denied; it needs a permission to {name} that does not"
                )
            }
            Cause::Excluded(_) => write!(
                formatter,
                "{action} {text:?} is denied for some of the topics it stands for; use patterns that leave \
                 them out, or a permission to {name} that does not deny them"
            ),
        }
    }
}

impl From<Denied> for BusError {
    fn from(denied: Denied) -> Self {
        Self::Denied { what: denied.to_string() }
    }
}
