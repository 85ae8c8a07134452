//! What a session may do, and how that follows a policy that is replaced.
//!
//! Each session's task holds its rights and looks at the number of the policy in each turn. When there is
//! another one it asks that about itself, and ends what it may no longer have. The routes that it has cached
//! are those that it may publish to, so that a publish to one of them is not looked at again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tokio::time::Instant;

use super::clock::SystemDeadline;
use super::streams::Claim;
use super::subscription::Subscription;
use super::task::SessionTask;
use crate::auth::{Action, Identity, Policy, Principal};
use crate::error::{BusError, BusResult};
use crate::topic::TopicPattern;

/// The policy of a bus.
#[derive(Debug)]
pub(super) struct Policies {
    current: RwLock<Arc<Policy>>,
    /// Counts those that there have been.
    number: AtomicU64,
}

impl Policies {
    pub(super) fn new(policy: Policy) -> Self {
        Self { current: RwLock::new(Arc::new(policy)), number: AtomicU64::new(0) }
    }

    /// The policy, and its number or an earlier one: who keeps the number notices what has come since.
    pub(super) fn current(&self) -> (Arc<Policy>, u64) {
        let number = self.number();
        (Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)), number)
    }

    pub(super) fn replace(&self, policy: Policy) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(policy.following(&current));
        drop(current);
        self.number.fetch_add(1, Ordering::Release);
    }

    /// Says in the log what policies left out there; for as long as it is polled.
    pub(super) async fn tell_refusals(&self) {
        // Not the policy itself, which may be replaced meanwhile.
        let told = self.current().0.tell_refusals();
        told.await;
    }

    #[inline]
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }
}

/// The rights of a session.
#[derive(Debug)]
pub(super) struct Rights {
    identity: Identity,
    /// It may publish to every topic that is not the bus's own.
    publishes_freely: bool,
    /// When it has to be looked at whether they have ended.
    pub(super) until: Option<SystemDeadline>,
}

impl Rights {
    pub(super) fn of(identity: Identity) -> Box<Self> {
        let publishes_freely =
            identity.permissions.allows(Action::Publish, &TopicPattern::everything()).is_ok();
        let until = next_look(&identity, SystemTime::now());
        Box::new(Self { identity, publishes_freely, until })
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    #[inline]
    pub(super) fn publishes_freely(&self) -> bool {
        self.publishes_freely
    }

    /// # Errors
    /// [`BusError::Denied`] that says which permission it would need.
    pub(super) fn check(&self, action: Action, pattern: &TopicPattern) -> BusResult<()> {
        Ok(self.identity.permissions.allows(action, pattern)?)
    }

    /// Looks at whether they have ended, if it is time for that, where the clock of the system says that it is `system`.
    ///
    /// # Errors
    /// Why the session ends with them.
    pub(super) fn outlive(&mut self, now: Instant, system: SystemTime) -> Result<(), BusError> {
        let Some(due) = self.until.filter(|until| until.at <= now) else { return Ok(()) };
        let system = due.reached(system);
        if self.identity.has_expired(system) {
            let principal = &self.identity.principal;
            return Err(BusError::Denied {
                what: format!("the token of {principal} has expired; connect with a new one"),
            });
        }
        self.until = next_look(&self.identity, system);
        Ok(())
    }
}

/// When it has to be looked at whether an identity has ended.
fn next_look(identity: &Identity, now: SystemTime) -> Option<SystemDeadline> {
    identity.expires.map(|end| SystemDeadline::new(end, now))
}

impl SessionTask {
    /// Asks the policy that has replaced another about this session, and ends what it may no longer have.
    ///
    /// # Errors
    /// Why it would not be let in any more.
    pub(super) fn renew_rights(&mut self) -> Result<(), BusError> {
        let (policy, number) = self.shared.policies.current();
        self.policy = number;
        let principal = self.session.lock().peer.principal.clone();
        let identity = match &self.rights {
            _ if principal == Principal::Bus => return Ok(()),
            Some(rights) => policy.renew(rights.identity())?,
            None => policy.identify(&principal)?,
        };
        self.rights = Some(Rights::of(identity));
        self.follow_rights();
        Ok(())
    }

    /// Ends what the session's new rights no longer allow.
    pub(super) fn follow_rights(&mut self) {
        self.note_end();
        self.cache.forget_routes();
        self.end_what_is_denied();
        self.end_turn();
    }

    /// Who asks for consumers of streams.
    pub(super) fn claim(&self) -> Claim {
        match &self.rights {
            Some(rights) if !self.shared.policies.current().0.is_open() => {
                Claim::of(rights.identity(), self.shared.live().max_consumers_per_principal)
            }
            _ => Claim::default(),
        }
    }

    /// Ends subscriptions and servings that are not allowed any more.
    fn end_what_is_denied(&mut self) {
        let Some(rights) = &self.rights else { return };
        let (mut subscriptions, servings, held) = {
            let state = self.session.lock();
            let denied = |action, pattern: &TopicPattern| rights.check(action, pattern).err();
            let subscriptions: Vec<(u32, BusError)> = state
                .subscriptions
                .iter()
                .filter_map(|own| Some((own.id, denied(Action::Subscribe, &own.pattern)?)))
                .collect();
            let servings: Vec<(u32, BusError)> = state
                .servings
                .iter()
                .filter_map(|(id, service)| {
                    Some((id, denied(Action::Serve, &TopicPattern::from(service.topic.clone()))?))
                })
                .collect();
            let held = |own: &Subscription| Some((own.id, own.reads.as_ref()?.membership()?.held()?));
            let held: Vec<_> = state.subscriptions.iter().filter_map(held).collect();
            (subscriptions, servings, held)
        };
        // Locks of streams come before those of sessions.
        let claim = self.claim();
        subscriptions.extend(held.into_iter().filter_map(|(id, held)| Some((id, held.check(&claim).err()?))));
        for (id, error) in subscriptions {
            self.end_subscription(id, u64::MAX, false, Some(&error));
        }
        for (id, error) in servings {
            self.end_serving(id, Some(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    /// Rights that end in so many hours, and the time now.
    fn ending_in(hours: u32) -> (Box<Rights>, SystemTime) {
        let now = SystemTime::now();
        let mut identity = Policy::default().identify(&Principal::Local).unwrap();
        identity.expires = Some(now + hours * HOUR);
        (Rights::of(identity), now)
    }

    #[tokio::test(start_paused = true)]
    async fn rights_end_when_the_system_says_so_also_if_the_host_has_slept_meanwhile() {
        let (mut rights, start) = ending_in(8);
        tokio::time::advance(limits::EXPIRY_INTERVAL).await;
        assert!(rights.until.is_some_and(|until| until.at <= Instant::now()), "it is looked at each hour");
        let ended = rights.outlive(Instant::now(), start + 9 * HOUR);
        assert!(matches!(&ended, Err(BusError::Denied { what }) if what.contains("expired")), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn rights_end_at_their_time_and_not_before() {
        let (mut rights, start) = ending_in(3);
        for hour in 1..3 {
            tokio::time::advance(HOUR).await;
            assert!(rights.outlive(Instant::now(), start + hour * HOUR).is_ok());
        }
        tokio::time::advance(HOUR - Duration::from_secs(1)).await;
        assert!(rights.outlive(Instant::now(), start + 3 * HOUR - Duration::from_secs(1)).is_ok());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(rights.outlive(Instant::now(), start + 3 * HOUR).is_err());
    }
}
