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

    fn give_back(&self, holder: Holder) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = places.entry(holder) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
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
        let mut place =
            Self { shared: Arc::clone(shared), is_own, holders: [None, None], has_session: false };
        let live = shared.live();
        if before >= live.max_sessions.saturating_add(limits::HANDSHAKES) && !is_own {
            return Err(BusError::LimitReached { what: format!("the bus has {before} connections") });
        }
        if let Some(block) = address {
            let limit = live.max_sessions_per_address;
            let what = || format!("{block} has {limit} connections without a session");
            place.hold(0, Holder::Opening(block), limit, what)?;
        }
        Ok(place)
    }

    /// Counts it as a session of this principal and address.
    ///
    /// # Errors
    /// [`BusError::LimitReached`].
    pub(super) fn begin_session(
        &mut self,
        principal: &Principal,
        address: Option<AddressBlock>,
    ) -> BusResult<()> {
        self.give_back();
        let live = self.shared.live();
        let before = self.shared.session_places.fetch_add(1, Ordering::Relaxed);
        self.has_session = true;
        if before > live.max_sessions && !self.is_own {
            let what = format!("the bus has {} sessions", live.max_sessions);
            return Err(BusError::LimitReached { what });
        }
        if let Some(block) = address {
            let limit = live.max_sessions_per_address;
            self.hold(0, Holder::Address(block), limit, || format!("{block} has {limit} sessions"))?;
        }
        if let Some(holder) = Holder::of(principal) {
            let limit = live.max_sessions_per_principal;
            self.hold(1, holder, limit, || format!("{principal} has {limit} sessions"))?;
        }
        Ok(())
    }

    fn hold(
        &mut self,
        index: usize,
        holder: Holder,
        limit: usize,
        what: impl FnOnce() -> String,
    ) -> BusResult<()> {
        if !self.shared.places.take(&holder, limit) {
            return Err(BusError::LimitReached { what: what() });
        }
        if let Some(held) = self.holders.get_mut(index) {
            *held = Some(holder);
        }
        Ok(())
    }

    fn give_back(&mut self) {
        for holder in self.holders.iter_mut().filter_map(Option::take) {
            self.shared.places.give_back(holder);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.links.fetch_sub(1, Ordering::Relaxed);
        if self.has_session {
            self.shared.session_places.fetch_sub(1, Ordering::Relaxed);
        }
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_a_place_back_gets_one_again_and_nothing_stays_behind() {
        let places = Places::default();
        let (alice, bob) = (Holder::Uid(1), Holder::Named("bob".into()));
        assert!(places.take(&alice, 2) && places.take(&alice, 2) && !places.take(&alice, 2));
        assert!(places.take(&bob, 2), "the places of others are their own");
        assert!(!places.take(&Holder::Uid(2), 0));
        places.give_back(alice.clone());
        assert!(places.take(&alice, 2));
        for holder in [alice.clone(), alice, bob] {
            places.give_back(holder);
        }
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
}
