//! What a session may do, and how that follows a policy that is replaced.
//!
//! Each session's task holds its rights and looks at the number of the policy in each turn. When there is
//! another one it asks that about itself, and ends what it may no longer have. The routes that it has cached
//! are those that it may publish to, so that a publish to one of them is not looked at again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

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
    /// When they end.
    pub(super) until: Option<Instant>,
}

impl Rights {
    pub(super) fn of(identity: Identity) -> Box<Self> {
        let publishes_freely =
            identity.permissions.allows(Action::Publish, &TopicPattern::everything()).is_ok();
        // The clock of the system says when, that of the runtime wakes. What is further away than it can tell does
        // not end while this runs.
        let until = identity.expires.and_then(|end| {
            let left = end.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
            Instant::now().checked_add(left)
        });
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

    /// Why a session ends at the end of its rights.
    pub(super) fn expired(&self) -> BusError {
        BusError::Denied {
            what: format!("the token of {} has expired; connect with a new one", self.identity.principal),
        }
    }
}

impl SessionTask {
    /// Asks the policy that has replaced another about this session, and ends what it may no longer have.
    ///
    /// # Errors
    /// Why it would not be let in any more.
    pub(super) fn renew_rights(&mut self) -> Result<(), BusError> {
        let (policy, number) = self.shared.policies.current();
        self.policy = number;
        let principal = &self.session.peer.principal;
        let identity = match &self.rights {
            _ if *principal == Principal::Bus => return Ok(()),
            Some(rights) => policy.renew(rights.identity())?,
            None => policy.identify(principal)?,
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

    /// Ends subscriptions and servings that are not allowed any more.
    fn end_what_is_denied(&mut self) {
        let Some(rights) = &self.rights else { return };
        let (subscriptions, servings) = {
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
            (subscriptions, servings)
        };
        for (id, error) in subscriptions {
            self.end_subscription(id, u64::MAX, false, Some(&error));
        }
        for (id, error) in servings {
            self.end_serving(id, Some(&error));
        }
    }
}
