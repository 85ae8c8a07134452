//! Who has connected and not said who he is.
//!
//! A handshake costs memory and computing before anybody is known to be worth it, so only so many are under way at
//! a time, and of one address no more than a part of them. Others wait. Where somebody waits, whoever has taken
//! long gives way to him: those who say nothing keep nobody out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::sleep;

use crate::auth::AddressBlock;
use crate::error::{BusError, BusResult};
use crate::limits;

/// The handshakes that are under way: those of transports, and `HELLO`.
#[derive(Debug)]
pub(super) struct Handshakes {
    all: Door,
    /// For each address that has any.
    by_address: Mutex<HashMap<AddressBlock, Owned, RandomState>>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self { all: Door::new(limits::HANDSHAKES), by_address: Mutex::default() }
    }
}

impl Handshakes {
    /// Waits for a place and does the handshake there; `address` is of whom it is to count as one.
    ///
    /// # Errors
    /// [`BusError::Overloaded`] when it takes long and others wait, and what the handshake ends with.
    pub(super) async fn run<T>(
        &self,
        address: Option<AddressBlock>,
        handshake: impl Future<Output = BusResult<T>>,
    ) -> BusResult<T> {
        let own = address.map(|address| OwnDoor::of(self, address));
        let own = own.as_ref().map(|own| &*own.door);
        let _own_place = match own {
            Some(own) => Some(own.enter().await),
            None => None,
        };
        let _place = self.all.enter().await;
        tokio::select! {
            done = handshake => done,
            () = async {
                sleep(limits::HANDSHAKE_PATIENCE).await;
                match own {
                    Some(own) => tokio::select! { () = own.is_wanted() => {} () = self.all.is_wanted() => {} },
                    None => self.all.is_wanted().await,
                }
            } => Err(BusError::Overloaded { what: "too many connections are in their handshake".into() }),
        }
    }
}

/// Lets so many in at a time.
#[derive(Debug)]
struct Door {
    places: Semaphore,
    waiting: AtomicUsize,
    /// Somebody waits for a place.
    wanted: Notify,
}

impl Door {
    fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places), waiting: AtomicUsize::new(0), wanted: Notify::new() }
    }

    /// Waits for a place. `None`, which there is only for a semaphore that is closed, never comes.
    async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.places.try_acquire() {
            return Some(place);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        self.wanted.notify_one();
        self.places.acquire().await.ok()
    }

    /// Returns when somebody waits.
    async fn is_wanted(&self) {
        loop {
            let wanted = self.wanted.notified();
            if self.waiting.load(Ordering::Relaxed) > 0 {
                return;
            }
            wanted.await;
        }
    }
}

/// Counts one who waits for as long as it does.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The door of an address, and how many are there for it.
#[derive(Debug)]
struct Owned {
    door: Arc<Door>,
    count: usize,
}

/// The door of an address, which is there as long as anybody of it.
struct OwnDoor<'a> {
    handshakes: &'a Handshakes,
    address: AddressBlock,
    door: Arc<Door>,
}

impl<'a> OwnDoor<'a> {
    fn of(handshakes: &'a Handshakes, address: AddressBlock) -> Self {
        let mut doors = handshakes.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let owned = doors
            .entry(address)
            .or_insert_with(|| Owned { door: Arc::new(Door::new(limits::HANDSHAKES_OF_ADDRESS)), count: 0 });
        owned.count += 1;
        let door = Arc::clone(&owned.door);
        drop(doors);
        Self { handshakes, address, door }
    }
}

impl Drop for OwnDoor<'_> {
    fn drop(&mut self) {
        let mut doors = self.handshakes.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        // References to the door would not tell: each is given back after this, when others may have looked already.
        if let Entry::Occupied(mut owned) = doors.entry(self.address) {
            owned.get_mut().count -= 1;
            if owned.get().count == 0 {
                owned.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    fn here() -> Option<AddressBlock> {
        Some(AddressBlock::of([192, 0, 2, 1].into()))
    }

    fn there() -> Option<AddressBlock> {
        Some(AddressBlock::of([192, 0, 2, 2].into()))
    }

    async fn quick() -> BusResult<()> {
        Ok(())
    }

    /// So many who connect from an address and then say nothing.
    async fn silent_ones(
        handshakes: &Arc<Handshakes>,
        address: Option<AddressBlock>,
        count: usize,
    ) -> JoinSet<BusResult<()>> {
        let mut silent_ones = JoinSet::new();
        for _ in 0..count {
            let handshakes = Arc::clone(handshakes);
            silent_ones.spawn(async move { handshakes.run(address, pending()).await });
        }
        for _ in 0..count {
            tokio::task::yield_now().await;
        }
        silent_ones
    }

    async fn time_of_a_good_one(handshakes: &Handshakes, address: Option<AddressBlock>) -> Duration {
        let before = Instant::now();
        assert!(handshakes.run(address, quick()).await.is_ok());
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_silent_stay_while_nobody_else_wants_their_place() {
        let handshakes = Arc::new(Handshakes::default());
        let mut silent_ones = silent_ones(&handshakes, None, limits::HANDSHAKES - 1).await;
        sleep(2 * limits::HANDSHAKE_PATIENCE).await;
        assert_eq!(time_of_a_good_one(&handshakes, None).await, Duration::ZERO);
        assert!(silent_ones.try_join_next().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_client_gets_the_place_of_one_who_is_silent() {
        let handshakes = Arc::new(Handshakes::default());
        let mut silent_ones = silent_ones(&handshakes, None, limits::HANDSHAKES).await;
        let waited = time_of_a_good_one(&handshakes, here()).await;
        assert!(waited <= limits::HANDSHAKE_PATIENCE, "{waited:?}");
        let sent_away = silent_ones.join_next().await.unwrap().unwrap();
        assert!(matches!(sent_away, Err(BusError::Overloaded { .. })), "{sent_away:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_has_been_silent_for_long_goes_at_once_when_he_is_in_the_way() {
        let handshakes = Arc::new(Handshakes::default());
        let _silent_ones = silent_ones(&handshakes, None, limits::HANDSHAKES).await;
        sleep(3 * limits::HANDSHAKE_PATIENCE).await;
        assert_eq!(time_of_a_good_one(&handshakes, None).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_many_silent_ones_is_in_nobodys_way_but_its_own() {
        let handshakes = Arc::new(Handshakes::default());
        let _silent_ones = silent_ones(&handshakes, here(), 2 * limits::HANDSHAKES).await;
        assert_eq!(time_of_a_good_one(&handshakes, there()).await, Duration::ZERO);
        assert!(time_of_a_good_one(&handshakes, here()).await > Duration::ZERO);
    }

    #[tokio::test]
    async fn nothing_is_kept_of_an_address_that_has_none() {
        let handshakes = Arc::new(Handshakes::default());
        let silent_ones = silent_ones(&handshakes, here(), 2 * limits::HANDSHAKES_OF_ADDRESS).await;
        assert!(handshakes.run(there(), quick()).await.is_ok());
        assert_eq!(handshakes.by_address.lock().unwrap().len(), 1);
        drop(silent_ones);
        while !handshakes.by_address.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn nothing_is_kept_of_an_address_whose_last_two_go_at_the_same_time() {
        let handshakes = Handshakes::default();
        let address = here().unwrap();
        let (one, other) = (OwnDoor::of(&handshakes, address), OwnDoor::of(&handshakes, address));
        // As when another thread has given the place of its own back, and not yet its reference.
        let not_yet = Arc::clone(&one.door);
        drop(one);
        drop(other);
        assert!(handshakes.by_address.lock().unwrap().is_empty());
        drop(not_yet);
    }
}
