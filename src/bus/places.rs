//! How many connections there are, and how many of them one address or one principal has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

use super::Shared;
use crate::auth::{AddressBlock, Principal};
use crate::error::{BusError, BusResult};
use crate::limits;

/// Who has connections.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<Holder, usize, RandomState>>);

/// Whose connections are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    Address(AddressBlock),
    /// One of which somebody has connected and has no session yet.
    Opening(AddressBlock),
    Uid(u32),
    /// Somebody by the name that he has proven.
    Named(Arc<str>),
}

impl Holder {
    /// Whose connections count as those of this principal; nobody's for the bus's own process, and for who is
    /// known by his address alone.
    fn of(principal: &Principal) -> Option<Self> {
        match principal {
            Principal::Bus | Principal::Local | Principal::Network { .. } => None,
            Principal::Unix { uid, .. } => Some(Self::Uid(*uid)),
            principal => Some(Self::Named(principal.to_string().into())),
        }
    }
}

impl Places {
    fn take(&self, holder: &Holder, limit: usize) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = places.entry(holder.clone()).or_default();
        let free = *count < limit;
        *count += usize::from(free);
        if *count == 0 {
            places.remove(holder);
        }
        free
    }

    /// Counts one more, if there are fewer.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] with what there is too much of.
    fn hold(&self, holder: Holder, limit: usize, what: impl FnOnce() -> String) -> BusResult<Holder> {
        match self.take(&holder, limit) {
            true => Ok(holder),
            false => Err(BusError::LimitReached { what: what() }),
        }
    }

    fn give_back(&self, holders: impl IntoIterator<Item = Holder>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for holder in holders {
            if let Entry::Occupied(mut entry) = places.entry(holder) {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
    }
}

/// Counts a connection for as long as it lives.
///
/// A connection without a session has places of its own: it may be that of somebody who comes back to his session,
/// which counts already.
pub(super) struct Place {
    shared: Arc<Shared>,
    is_own: bool,
    /// While it has no session: the address that it is one of.
    opening: Option<Holder>,
    /// Once it has: the address and the principal that it is one of.
    holders: [Option<Holder>; 2],
    /// It counts as a session.
    has_session: bool,
}

impl Place {
    /// Counts one more, within the limits. The bus's own process always finds a place.
    ///
    /// # Errors
    /// [`BusError::LimitReached`].
    pub(super) fn open(shared: &Arc<Shared>, address: Option<AddressBlock>, is_own: bool) -> BusResult<Self> {
        let before = shared.links.fetch_add(1, Ordering::Relaxed);
        let mut place = Self {
            shared: Arc::clone(shared),
            is_own,
            opening: None,
            holders: [None, None],
            has_session: false,
        };
        let live = shared.live();
        if before >= live.max_sessions.saturating_add(limits::HANDSHAKES) && !is_own {
            return Err(BusError::LimitReached { what: format!("the bus has {before} connections") });
        }
        if let Some(block) = address {
            let limit = live.max_sessions_per_address;
            let what = || format!("{block} has {limit} connections without a session");
            place.opening = Some(shared.places.hold(Holder::Opening(block), limit, what)?);
        }
        Ok(place)
    }

    /// Counts it as a session of this principal and address. If that cannot be, it counts as before.
    ///
    /// # Errors
    /// [`BusError::LimitReached`].
    pub(super) fn begin_session(
        &mut self,
        principal: &Principal,
        address: Option<AddressBlock>,
    ) -> BusResult<()> {
        if self.is_own {
            return Ok(());
        }
        let before = self.shared.session_places.fetch_add(1, Ordering::Relaxed);
        self.has_session = true;
        let begun = self.hold_session(before, principal, address);
        match begun {
            Ok(()) => self.shared.places.give_back(self.opening.take()),
            // Who is told why he is refused may take his time.
            Err(_) => self.end_session(),
        }
        begun
    }

    /// Counts it as a connection without a session.
    pub(super) fn end_session(&mut self) {
        if std::mem::take(&mut self.has_session) {
            self.shared.session_places.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.places.give_back(self.holders.iter_mut().filter_map(Option::take));
    }

    fn hold_session(
        &mut self,
        before: usize,
        principal: &Principal,
        address: Option<AddressBlock>,
    ) -> BusResult<()> {
        let live = self.shared.live();
        if before >= live.max_sessions {
            let what = format!("the bus has {} sessions", live.max_sessions);
            return Err(BusError::LimitReached { what });
        }
        let [of_address, of_principal] = &mut self.holders;
        if let Some(block) = address {
            let limit = live.max_sessions_per_address;
            let what = || format!("{block} has {limit} sessions");
            *of_address = Some(self.shared.places.hold(Holder::Address(block), limit, what)?);
        }
        if let Some(holder) = Holder::of(principal) {
            let limit = live.max_sessions_per_principal;
            let what = || format!("{principal} has {limit} sessions");
            *of_principal = Some(self.shared.places.hold(holder, limit, what)?);
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.links.fetch_sub(1, Ordering::Relaxed);
        self.end_session();
        self.shared.places.give_back(self.opening.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Bus, Settings};

    #[test]
    fn who_gives_a_place_back_gets_one_again_and_nothing_stays_behind() {
        let places = Places::default();
        let (alice, bob) = (Holder::Uid(1), Holder::Named("bob".into()));
        assert!(places.take(&alice, 2) && places.take(&alice, 2) && !places.take(&alice, 2));
        assert!(places.take(&bob, 2), "the places of others are their own");
        assert!(!places.take(&Holder::Uid(2), 0));
        places.give_back([alice.clone()]);
        assert!(places.take(&alice, 2));
        places.give_back([alice.clone(), alice, bob]);
        assert!(places.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_principal_is_the_same_whatever_process_it_is_of() {
        let process = |pid| Principal::Unix { uid: 1, gid: pid as u32, pid: Some(pid) };
        assert_eq!(Holder::of(&process(1)), Holder::of(&process(2)));
        let user = Principal::User { name: "alice".into() };
        let certificate = Principal::Certificate { name: "alice".into() };
        assert_ne!(Holder::of(&user), Holder::of(&certificate));
        assert_eq!(Holder::of(&Principal::Local), None);
    }

    #[tokio::test]
    async fn who_is_refused_takes_nobodys_place_while_he_is_told_so() {
        let settings = Settings {
            max_sessions: 2,
            max_sessions_per_principal: 1,
            max_sessions_per_address: 1,
            ..Settings::default()
        };
        let bus = Bus::builder().settings(settings).start().unwrap();
        let named = |name: &str| Principal::User { name: name.into() };
        let at = |last| Some(AddressBlock::of([192, 0, 2, last].into()));
        let open = |last| Place::open(bus.shared(), at(last), false).unwrap();
        let (mut alice, mut again, mut bob) = (open(1), open(2), open(3));
        alice.begin_session(&named("alice"), at(1)).unwrap();
        assert!(again.begin_session(&named("alice"), at(2)).is_err(), "she has one already");
        assert!(Place::open(bus.shared(), at(2), false).is_err(), "the connection still counts");
        bob.begin_session(&named("bob"), at(2)).unwrap();

        let mut carol = open(4);
        assert!(carol.begin_session(&named("carol"), at(4)).is_err(), "the bus is full");
        drop(bob);
        carol.begin_session(&named("carol"), at(4)).unwrap();
        drop((alice, again, carol));
        assert!(bus.shared().places.0.lock().unwrap().is_empty());
    }
}
