//! Why somebody is not let in: what he is told, and what the log says, which is not more than somebody would read.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Principal, TokenError};
use crate::error::BusError;
use crate::limits;

/// Why somebody is not let in, for the log. The peer is told only whether credentials were missing.
#[derive(Debug, Error)]
pub(super) enum Refused {
    #[error("it shows no credentials, and the policy has no roles for it")]
    NoCredentials,
    #[error("there are no users")]
    NoUsers,
    #[error("there is no user {name:?}")]
    UnknownUser { name: String },
    #[error("the name of the user cannot be one")]
    UserName,
    #[error("the password of user {name:?} is wrong")]
    WrongPassword { name: String },
    #[error("the user {name:?} is no longer there, or has another password")]
    UserChanged { name: String },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the key, audience or roles of the token's issuer are no longer the same")]
    IssuerChanged,
    #[error("its token has expired")]
    Expired,
    #[error("the roles of the token cannot be put together: {0}")]
    Roles(BusError),
    #[error(
        "this process grants it the role {role:?}, which the policy does not have; add it there or correct the name"
    )]
    UnknownRole { role: String },
    #[error("this process grants it roles that cannot be put together: {0}")]
    GrantedRoles(BusError),
    #[error("what this process has granted it has ended")]
    GrantEnded,
    #[error("the password of user {name:?} is not looked at: {error}")]
    Unchecked { name: String, error: BusError },
}

impl Refused {
    /// What the peer is told.
    pub(super) fn told(self) -> BusError {
        let what = match self {
            Self::Unchecked { error, .. } => return error,
            Self::NoCredentials => {
                "this bus needs credentials; connect with a token, with a user and password, or with a client \
                 certificate that it knows"
            }
            Self::UnknownRole { .. } | Self::GrantedRoles(_) => {
                "the roles that the bus's own process grants cannot be had by the bus's policy; its log says why"
            }
            _ => {
                "the credentials were not accepted; check that they are right and still valid, or get new ones"
            }
        };
        BusError::Denied { what: what.into() }
    }
}

/// What of it has been said lately.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    said: Mutex<Said>,
    /// The first was left out.
    left_out: Notify,
}

#[derive(Debug, Default)]
struct Said {
    /// When counting begins anew.
    until: Option<Instant>,
    count: u32,
    left_out: u64,
}

impl Said {
    /// Whether one more may be said, and how many were left out before it.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let mut missed = 0;
        if self.until.is_none_or(|until| until <= now) {
            missed = std::mem::take(&mut self.left_out);
            (self.until, self.count) = (Some(now + limits::REFUSALS_INTERVAL), 0);
        }
        let admitted = self.count < limits::REFUSALS_TOLD;
        match admitted {
            true => self.count += 1,
            false => self.left_out += 1,
        }
        (admitted, missed)
    }
}

impl Refusals {
    /// Says that somebody is not let in, and why, unless that has been said often.
    pub(super) fn tell(&self, peer: &Principal, reason: &dyn fmt::Display) {
        let (admitted, missed) = {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.admit(Instant::now())
        };
        if missed > 0 {
            tell_missed(missed);
        }
        if admitted {
            tracing::warn!(%peer, %reason, "not let in");
        } else {
            self.left_out.notify_one();
        }
    }

    /// Says how many were left out, soon after that; for as long as it is polled.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the number is said with what is said next.
    pub(super) async fn run(&self) {
        loop {
            self.left_out.notified().await;
            let until = self.said.lock().unwrap_or_else(PoisonError::into_inner).until;
            if let Some(until) = until {
                sleep_until(until).await;
            }
            let missed = {
                let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut said.left_out)
            };
            if missed > 0 {
                tell_missed(missed);
            }
        }
    }
}

fn tell_missed(missed: u64) {
    tracing::warn!(missed, "others were not let in, either");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_few_are_said_in_each_interval_and_the_others_are_counted() {
        let (mut said, start) = (Said::default(), Instant::now());
        let told = (0..100).filter(|_| said.admit(start).0).count();
        assert_eq!(told, limits::REFUSALS_TOLD as usize);
        let later = start + limits::REFUSALS_INTERVAL;
        assert_eq!(said.admit(later - Duration::from_millis(1)), (false, 0));
        assert_eq!(said.admit(later), (true, 101 - u64::from(limits::REFUSALS_TOLD)));
        assert_eq!(said.admit(later), (true, 0), "that has been said");
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_those_that_were_left_out_is_said_also_when_nobody_comes_any_more() {
        let refusals = Refusals::default();
        let peer = Principal::Network { address: ([192, 0, 2, 1], 1).into() };
        for _ in 0..limits::REFUSALS_TOLD + 7 {
            refusals.tell(&peer, &"a reason");
        }
        let start = Instant::now();
        let said = async {
            while refusals.said.lock().unwrap().left_out > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = refusals.run() => unreachable!("it goes on"),
            () = said => {}
        }
        let after = start.elapsed();
        assert!(after >= limits::REFUSALS_INTERVAL, "{after:?}");
        assert!(after < limits::REFUSALS_INTERVAL + Duration::from_secs(1), "{after:?}");
    }
}
