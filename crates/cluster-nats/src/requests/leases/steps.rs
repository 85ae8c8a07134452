//! What is done at the bucket, step by step. Nothing is remembered here: every decision is a compare-and-set.

use std::fmt;
use std::fmt::Write as _;

use bytes::Bytes;
use whispeer::topic::Topic;

use super::bucket::{Bucket, Put};
use crate::members::{read_id, written};

/// What the entry of a lease says as long as it is renewed, and for ever after.
const ALIVE: &[u8] = b"alive";
const ENDED: &[u8] = b"ended";

/// How often an entry is looked at again that others have changed meanwhile.
const LOOKS: usize = 4;

/// A lease: the bus, and how many it had before since its link began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lease {
    pub(super) bus: u64,
    pub(super) number: u64,
}

impl Lease {
    fn read(text: &[u8]) -> Option<Self> {
        let (bus, number) = str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { bus: read_id(bus)?, number: number.parse().ok()? })
    }

    fn key(self) -> String {
        format!("bus/{self}")
    }

    fn value(self) -> Bytes {
        self.to_string().into()
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", written(self.bus), self.number)
    }
}

/// What has become of an attempt to have a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acquired {
    /// This bus has it, with this revision.
    Held(u64),
    /// This lease has it, whose own entry has this revision, 0 for none.
    Other { lease: Lease, revision: u64 },
    /// Nobody knows.
    Unknown,
}

/// What has become of an attempt to renew a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewed {
    /// It has this revision now.
    Alive(u64),
    /// It has been ended, or there is one of this name.
    Ended,
    /// Nobody knows.
    Unknown,
}

/// Makes a topic one of this lease's, unless one has it that has not ended. `held` is the revision by which it has the topic already.
pub(super) async fn acquire(bucket: &Bucket, own: Lease, topic: &Topic, held: Option<u64>) -> Acquired {
    let key = key_of(topic);
    let mut expected = held.unwrap_or(0);
    for _ in 0..LOOKS {
        match bucket.put(&key, own.value(), expected).await {
            Put::Done(revision) => return Acquired::Held(revision),
            Put::Conflict => {}
            Put::Unknown => return Acquired::Unknown,
        }
        let entry = match bucket.get(&key).await {
            Ok(entry) => entry,
            Err(_) => return Acquired::Unknown,
        };
        expected = match entry {
            None => 0,
            Some(entry) => {
                match Lease::read(&entry.value) {
                    // It may be about to be taken out, as this bus has asked for before without having had an answer. What is
                    // written now stays.
                    Some(lease) if lease == own => {}
                    // This bus knows itself that an earlier one has ended. What is no lease belongs to nobody.
                    Some(lease) if lease.bus != own.bus => match bucket.get(&lease.key()).await {
                        Ok(Some(life)) if life.value == ENDED => {}
                        Ok(life) => {
                            let revision = life.map_or(0, |life| life.revision);
                            return Acquired::Other { lease, revision };
                        }
                        Err(_) => return Acquired::Unknown,
                    },
                    _ => {}
                }
                entry.revision
            }
        };
    }
    Acquired::Unknown
}

/// Begins a lease, or renews it: `last` is the revision of the last time.
pub(super) async fn renew(bucket: &Bucket, own: Lease, last: Option<u64>) -> Renewed {
    let key = own.key();
    let mut expected = last.unwrap_or(0);
    for _ in 0..LOOKS {
        match bucket.put(&key, ALIVE, expected).await {
            Put::Done(revision) => return Renewed::Alive(revision),
            Put::Conflict if last.is_none() => return Renewed::Ended,
            Put::Conflict => {}
            Put::Unknown => return Renewed::Unknown,
        }
        // An earlier renewal may have been written without that being known here.
        match bucket.get(&key).await {
            Ok(Some(entry)) if entry.value == ALIVE => expected = entry.revision,
            Ok(_) => return Renewed::Ended,
            Err(_) => return Renewed::Unknown,
        }
    }
    Renewed::Unknown
}

/// Ends a lease that has this revision, 0 for none. Returns whether it is so.
pub(super) async fn end(bucket: &Bucket, lease: Lease, revision: u64) -> bool {
    matches!(bucket.put(&lease.key(), ENDED, revision).await, Put::Done(_))
}

/// Ends this bus's own lease, which may have been renewed since without that being known.
pub(super) async fn end_own(bucket: &Bucket, own: Lease, mut revision: u64) {
    for _ in 0..LOOKS {
        match bucket.put(&own.key(), ENDED, revision).await {
            Put::Done(_) | Put::Unknown => return,
            Put::Conflict => match bucket.get(&own.key()).await {
                Ok(Some(entry)) if entry.value == ALIVE => revision = entry.revision,
                Ok(_) | Err(_) => return,
            },
        }
    }
}

/// Takes out the entry of a topic if this lease has it. Returns whether that is so.
///
/// It is looked at first in any case: a bucket that was lost and made anew has other entries with the same revisions.
pub(super) async fn release(bucket: &Bucket, own: Lease, topic: &Topic) -> bool {
    match bucket.get(&key_of(topic)).await {
        Ok(Some(entry)) if Lease::read(&entry.value) == Some(own) => {
            bucket.remove(entry.revision).await.is_ok()
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

/// The key of a topic: its letters, digits, `-` and `_` as they are, `/` for itself, and other bytes as `=` and two hexadecimal digits.
fn key_of(topic: &Topic) -> String {
    let mut key = String::from("topic");
    for fragment in topic.fragments() {
        key.push('/');
        for byte in fragment.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
                key.push(char::from(byte));
            } else {
                // Text takes what is written to it.
                let _ = write!(key, "={byte:02X}");
            }
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use whispeer_testkit::nats::{self, NatsServer};

    use super::super::LeaseSettings;
    use super::*;

    #[tokio::test]
    async fn what_is_had_again_outlives_a_release_that_comes_late() {
        if !nats::available() {
            return;
        }
        for version in nats::versions() {
            let server: NatsServer = version.jetstream().start().await;
            let context = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
            let bucket = Bucket::open(context, "leases".into(), &LeaseSettings::default()).await.unwrap();
            let (own, other) = (Lease { bus: 1, number: 1 }, Lease { bus: 2, number: 1 });
            let topic = Topic::new("clock").unwrap();
            let has = async |lease| acquire(&bucket, lease, &topic, None).await;
            let Acquired::Held(first) = has(own).await else { panic!("it is free") };
            let Acquired::Held(again) = has(own).await else { panic!("it is its own") };
            // As it may be done by a cluster that had lost its majority when it was asked for.
            bucket.remove(first).await.unwrap();
            let found = has(other).await;
            assert!(
                matches!(found, Acquired::Other { lease, .. } if lease == own),
                "{first} {again} {found:?}"
            );
            // What is another one's stays, whatever revision it has.
            assert!(release(&bucket, other, &topic).await);
            assert_eq!(bucket.get(&key_of(&topic)).await.unwrap().map(|entry| entry.revision), Some(again));
            assert!(release(&bucket, own, &topic).await);
            assert!(matches!(has(other).await, Acquired::Held(_)));
        }
    }

    #[test]
    fn each_topic_has_a_key_that_others_can_read() {
        let key = |topic: &str| key_of(&Topic::new(topic).unwrap());
        assert_eq!(key("shop/orders-1"), "topic/shop/orders-1");
        assert_eq!(key("shop/v1.2"), "topic/shop/v1=2E2");
        assert_eq!(key("käse=a"), "topic/k=C3=A4se=3Da");
        assert_eq!(key(""), "topic");
        assert!(key(&"ä".repeat(512)).len() < 3_200, "it fits into a line of NATS");
    }

    #[test]
    fn a_lease_is_read_as_it_is_written_and_nothing_else_is_one() {
        let lease = Lease { bus: 0xc0ffee, number: 3 };
        assert_eq!(lease.to_string(), "0000000000c0ffee-3");
        assert_eq!(Lease::read(&lease.value()), Some(lease));
        for other in [&b""[..], b"0000000000c0ffee", b"c0ffee-3", b"0000000000c0ffee-", b"\xff-1"] {
            assert_eq!(Lease::read(other), None, "{other:?}");
        }
    }
}
