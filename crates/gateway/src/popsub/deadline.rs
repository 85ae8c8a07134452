//! Until when a session may go on as it is.

use std::future::pending;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::limits;
use crate::socket::Closing;

/// The clock of the system, by which tokens end, is looked at after so long at the latest: the runtime's stands still while
/// the host sleeps.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Until when a session may go on as it is. It may be changed while its end is waited for.
pub(super) struct Deadline(watch::Sender<Until>);

#[derive(Debug, Clone, Copy)]
enum Until {
    /// It has to have said by then who it is.
    Login(Instant),
    /// Its token is good until then.
    Token(SystemTime),
}

impl Deadline {
    /// That of somebody who has not said who he is.
    pub(super) fn of_login() -> Self {
        Self(watch::channel(Until::Login(Instant::now() + limits::LOGIN_TIME)).0)
    }

    /// He has a moment more to say who he is.
    pub(super) fn prolong_login(&self) {
        self.0.send_replace(Until::Login(Instant::now() + limits::LOGIN_TIME));
    }

    /// He has a token that is good until then.
    pub(super) fn set(&self, expires: SystemTime) {
        self.0.send_replace(Until::Token(expires));
    }

    /// Waits until it is over; for ever where the session is.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) fn over(&self) -> impl Future<Output = Closing> + Send + use<> {
        let mut changes = self.0.subscribe();
        async move {
            loop {
                let until = *changes.borrow_and_update();
                let (moment, is_over) = match until {
                    Until::Login(moment) => (moment, Some(Closing::NotLoggedIn)),
                    Until::Token(expires) => match expires.duration_since(SystemTime::now()) {
                        Ok(left) if !left.is_zero() => (Instant::now() + left.min(CLOCK_INTERVAL), None),
                        _ => return Closing::Expired,
                    },
                };
                tokio::select! {
                    biased;
                    changed = changes.changed() => if changed.is_err() {
                        pending().await
                    },
                    () = sleep_until(moment) => if let Some(closing) = is_over {
                        return closing;
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_log_in_in_time_is_late_unless_he_has_a_moment_more() {
        let deadline = Deadline::of_login();
        let mut over = Box::pin(deadline.over());
        advance(limits::LOGIN_TIME / 2).await;
        assert!((&mut over).now_or_never().is_none());
        deadline.prolong_login();
        advance(limits::LOGIN_TIME * 3 / 4).await;
        assert!((&mut over).now_or_never().is_none());
        advance(limits::LOGIN_TIME / 4).await;
        assert_eq!(over.await, Closing::NotLoggedIn);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_ends_by_the_clock_of_the_system_and_another_takes_its_place() {
        let deadline = Deadline::of_login();
        let mut over = Box::pin(deadline.over());
        deadline.set(SystemTime::now() + Duration::from_secs(60));
        assert!((&mut over).now_or_never().is_none());
        // The runtime's clock alone does not end it.
        advance(Duration::from_secs(120)).await;
        assert!((&mut over).now_or_never().is_none());
        deadline.set(SystemTime::now());
        assert_eq!(over.await, Closing::Expired);
    }
}
