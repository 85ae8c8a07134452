//! How often somebody may publish.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::{HookResult, Hooks, Plugin, Publishing, Refused};
use crate::auth::{AddressBlock, Principal};
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::topic::TopicPattern;

/// So many messages in a time, and so many at once.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use whispeer::plugin::Rate;
///
/// let rate = Rate::new(600, Duration::from_secs(60))?.burst(20)?;
/// assert_eq!(rate.to_string(), "600 messages in 60s, 20 at once");
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    messages: NonZeroU32,
    period: Duration,
    burst: NonZeroU32,
    quota: Quota,
}

impl Rate {
    /// So many messages in each period, evenly; all of them may come at once.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for none, and for more than one in a nanosecond.
    pub fn new(messages: u32, period: Duration) -> BusResult<Self> {
        let invalid = || {
            BusError::InvalidSettings(format!(
                "a rate of {messages} messages in {period:?}; take at least 1, and at most one in a nanosecond"
            ))
        };
        let messages = NonZeroU32::new(messages).ok_or_else(invalid)?;
        let quota = Quota::with_period(period / messages.get()).ok_or_else(invalid)?;
        Ok(Self { messages, period, burst: messages, quota: quota.allow_burst(messages) })
    }

    /// So many messages in a second, as [`new`](Self::new).
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for none.
    pub fn per_second(messages: u32) -> BusResult<Self> {
        Self::new(messages, Duration::from_secs(1))
    }

    /// The same rate, with so many messages at once after a pause.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for none.
    pub fn burst(self, messages: u32) -> BusResult<Self> {
        let burst = NonZeroU32::new(messages)
            .ok_or_else(|| BusError::InvalidSettings("a burst of 0 messages lets nothing pass".into()))?;
        Ok(Self { burst, quota: self.quota.allow_burst(burst), ..self })
    }

    /// After so long a pause nothing of what was before counts any more.
    fn memory(&self) -> Duration {
        self.quota.replenish_interval().saturating_mul(self.burst.get())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, period, burst, .. } = self;
        write!(formatter, "{messages} messages in {period:?}, {burst} at once")
    }
}

/// Refuses messages that come faster than allowed, and says when to try again.
///
/// Limits are for each principal or for all together, on all topics or on those of a pattern. A message has to keep
/// to all limits that it falls under. Those that it keeps to before one refuses it count it all the same.
///
/// Processes of one user of the host are one principal, connections from one address that have proven nothing are one, and all
/// clients within the bus's own process are one. At most
/// [`RATE_LIMIT_PRINCIPALS`](limits::RATE_LIMIT_PRINCIPALS) are told apart; those beyond share one limit.
///
/// A publish that waits for its answer is told [`BusError::Refused`]. One that does not is gone, and its publisher learns of that
/// as of all failed publishes.
///
/// # Examples
/// ```
/// use whispeer::plugin::{Rate, RateLimit};
/// use whispeer::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> BusResult<()> {
/// let limit = RateLimit::new()
///     .each(Rate::per_second(1_000)?)
///     .each_on(TopicPattern::new("alarms/**")?, Rate::per_second(1)?)
///     .all_on(TopicPattern::new("orders/**")?, Rate::per_second(10_000)?);
/// let bus = Bus::builder().plugin(limit).start()?;
/// let client = Client::new_memory(&bus.connector())?;
/// client.publish_bytes("alarms/fire", "!").await?;
/// let refused = client.publish_bytes("alarms/fire", "!").await;
/// assert!(matches!(refused, Err(BusError::Refused { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct RateLimit {
    rules: Vec<Rule>,
}

struct Rule {
    topics: TopicPattern,
    rate: Rate,
    kind: Kind,
}

enum Kind {
    All(Limiter),
    Each(Mutex<Table>),
}

/// A limiter by Tokio's clock, which tests can pause.
type Limiter = RateLimiter<NotKeyed, InMemoryState, Elapsed, NoOpMiddleware<Nanos>>;

#[derive(Debug, Clone)]
struct Elapsed(Instant);

impl Clock for Elapsed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

fn limiter(rate: &Rate) -> Limiter {
    RateLimiter::direct_with_clock(rate.quota, Elapsed(Instant::now()))
}

/// Whose messages count together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    User(u32),
    Address(AddressBlock),
    Other(Principal),
}

impl Who {
    fn of(principal: &Principal) -> Self {
        match principal {
            Principal::Unix { uid, .. } => Self::User(*uid),
            Principal::Network { address } => Self::Address(AddressBlock::of(address.ip())),
            other => Self::Other(other.clone()),
        }
    }
}

/// The principals that have published lately.
struct Table {
    known: HashMap<Who, (Limiter, Instant), RandomState>,
    /// For those that find no room.
    others: Limiter,
    /// When it was last looked for some to forget.
    tidied: Instant,
    room: usize,
}

impl Table {
    fn new(rate: &Rate, room: usize) -> Self {
        let tidied = Instant::now();
        Self { known: HashMap::default(), others: limiter(rate), tidied, room }
    }

    fn limiter(&mut self, who: Who, rate: &Rate) -> &Limiter {
        let now = Instant::now();
        if self.known.len() >= self.room && now.duration_since(self.tidied) >= limits::RATE_LIMIT_TIDY {
            self.tidied = now;
            self.known.retain(|_, (_, last)| now.duration_since(*last) < rate.memory());
        }
        if self.known.len() >= self.room && !self.known.contains_key(&who) {
            return &self.others;
        }
        let (limiter, last) = self.known.entry(who).or_insert_with(|| (limiter(rate), now));
        *last = now;
        limiter
    }
}

impl RateLimit {
    /// Lets everything pass.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets each principal publish so often, on all topics together.
    #[must_use]
    pub fn each(self, rate: Rate) -> Self {
        self.each_on(TopicPattern::everything(), rate)
    }

    /// Lets each principal publish so often to these topics, together.
    #[must_use]
    pub fn each_on(mut self, topics: TopicPattern, rate: Rate) -> Self {
        let table = Table::new(&rate, limits::RATE_LIMIT_PRINCIPALS);
        self.rules.push(Rule { topics, rate, kind: Kind::Each(Mutex::new(table)) });
        self
    }

    /// Lets all principals together publish so often to these topics, together.
    #[must_use]
    pub fn all_on(mut self, topics: TopicPattern, rate: Rate) -> Self {
        self.rules.push(Rule { topics, rate, kind: Kind::All(limiter(&rate)) });
        self
    }
}

impl Rule {
    /// # Errors
    /// How long to wait.
    fn check(&self, principal: &Principal) -> Result<(), Duration> {
        match &self.kind {
            Kind::All(limiter) => check(limiter),
            Kind::Each(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                check(table.limiter(Who::of(principal), &self.rate))
            }
        }
    }
}

fn check(limiter: &Limiter) -> Result<(), Duration> {
    limiter.check().map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
}

impl Plugin for RateLimit {
    fn name(&self) -> &str {
        "rate-limit"
    }

    fn hooks(&self) -> Hooks {
        Hooks::PUBLISH
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        for rule in self.rules.iter().filter(|rule| rule.topics.meets(message.topic())) {
            if let Err(wait) = rule.check(&message.session().principal) {
                let who = match rule.kind {
                    Kind::All(_) => "all together",
                    Kind::Each(_) => "each principal",
                };
                let Rule { topics, rate, .. } = rule;
                return Err(Refused::new(format!(
                    "{who} may publish {rate}, to \"{topics}\"; try again in {wait:?}"
                )));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules.iter().map(|rule| (rule.topics.as_str(), rule.rate));
        formatter.debug_map().entries(rules).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Principal {
        Principal::Unix { uid, gid: 0, pid: Some(1) }
    }

    #[tokio::test(start_paused = true)]
    async fn each_principal_has_its_own_limit_and_gets_it_back_with_time() {
        let limit = RateLimit::new().each(Rate::per_second(10).unwrap().burst(2).unwrap());
        let rule = &limit.rules[0];
        for uid in [1, 2] {
            assert_eq!((rule.check(&user(uid)), rule.check(&user(uid))), (Ok(()), Ok(())));
        }
        let other_process = Principal::Unix { uid: 1, gid: 0, pid: Some(2) };
        assert_eq!(rule.check(&other_process), Err(Duration::from_millis(100)));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!((rule.check(&user(1)), rule.check(&user(1)).is_err()), (Ok(()), true));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_find_no_room_share_a_limit_until_others_are_forgotten() {
        let rate = Rate::per_second(1).unwrap();
        let mut table = Table::new(&rate, 2);
        let mut check = |uid| super::check(table.limiter(Who::of(&user(uid)), &rate)).is_ok();
        assert!(check(1) && check(2) && check(3));
        assert!(!check(4), "it shares the limit of 3");
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert!(check(3) && check(4), "1 and 2 are forgotten");
        assert!(check(5) && !check(6));
    }

    #[test]
    fn a_rate_that_lets_nothing_pass_is_refused() {
        assert!(Rate::per_second(0).is_err());
        assert!(Rate::per_second(1).unwrap().burst(0).is_err());
        assert!(Rate::new(u32::MAX, Duration::from_secs(1)).is_err());
        assert!(Rate::new(1, Duration::ZERO).is_err());
    }
}
