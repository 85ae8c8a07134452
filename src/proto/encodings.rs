//! Forms of a message that are made once for all destinations that want them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// A form of a payload that is made once for all destinations that want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Encoding {
    /// The whole message as JSON text.
    Json = 0,
    /// The whole frame in the native binary form, ready for a byte link.
    Native = 1,
    /// What the gateway's dialect Turbine pushes to a subscriber.
    Turbine = 2,
    /// What the gateway's dialect PopSub broadcasts to a subscriber.
    PopSub = 3,
    /// A Server-Sent Event.
    Event = 4,
}

impl Encoding {
    pub(super) const COUNT: usize = 5;
}

/// Whose forms of a message some are, where not all who see the message may see them; see
/// [`Content::encoded_for`](super::Content::encoded_for).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EncodingOwner(u64);

impl EncodingOwner {
    /// One that nobody else of this process is.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// One slot for each form.
#[derive(Debug, Default)]
pub(super) struct Slots([OnceLock<Bytes>; Encoding::COUNT]);

impl Slots {
    /// What is in the slot, made if nobody has made it before.
    pub(super) fn get(&self, encoding: Encoding, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.0[encoding as usize].get_or_init(encode).clone()
    }
}

/// The forms of one message: those that are for all, and those of owners, of which there are as many as use the message. Nothing
/// is locked but while a slot is filled.
#[derive(Debug, Default)]
pub(super) struct Encodings {
    shared: Slots,
    first: OnceLock<Box<Owned>>,
}

#[derive(Debug)]
struct Owned {
    owner: EncodingOwner,
    slots: Slots,
    next: OnceLock<Box<Self>>,
}

impl Encodings {
    pub(super) fn shared(&self) -> &Slots {
        &self.shared
    }

    /// Those of an owner.
    pub(super) fn of(&self, owner: EncodingOwner) -> &Slots {
        let mut place = &self.first;
        loop {
            let make = || Box::new(Owned { owner, slots: Slots::default(), next: OnceLock::new() });
            // If another owner is first, this one comes behind.
            let owned = place.get_or_init(make);
            if owned.owner == owner {
                return &owned.slots;
            }
            place = &owned.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_owner_has_slots_of_its_own_beside_those_for_all() {
        let (all, owners) = (Encodings::default(), [(); 3].map(|()| EncodingOwner::new()));
        all.shared().get(Encoding::Json, || "all".into());
        for (number, owner) in (0u8..).zip(owners) {
            assert_eq!(*all.of(owner).get(Encoding::Json, || vec![number].into()), [number]);
        }
        for (number, owner) in (0u8..).zip(owners) {
            assert_eq!(*all.of(owner).get(Encoding::Json, || unreachable!("it is there")), [number]);
        }
        assert_eq!(*all.shared().get(Encoding::Json, || unreachable!("it is there")), *b"all");
    }

    #[test]
    fn owners_that_come_at_once_each_make_theirs_once() {
        let all = Encodings::default();
        let owners: Vec<EncodingOwner> = (0..4).map(|_| EncodingOwner::new()).collect();
        let made = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for owner in owners.iter().chain(&owners) {
                scope.spawn(|| {
                    let text = all.of(*owner).get(Encoding::Event, || {
                        made.fetch_add(1, Ordering::Relaxed);
                        owner.0.to_be_bytes().to_vec().into()
                    });
                    assert_eq!(*text, owner.0.to_be_bytes());
                });
            }
        });
        assert_eq!(made.into_inner(), 4);
    }
}
