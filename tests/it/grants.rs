//! Keys that are handed over through a bus that is not to be trusted: it substitutes keys, sends old grants again, and
//! changes what it carries; and a member who was removed keeps all that he hears.
#![cfg(feature = "encryption")]

use bytes::Bytes;
use whispeer::client::{Event, Subscription};
use whispeer::engine::encryption::{
    Accepted, Encryption, Fingerprint, GrantError, GrantOptions, Identity, Key, Keyring,
};
use whispeer::engine::{Chain, Engines};
use whispeer::prelude::*;
use whispeer::{EngineError, TopicPattern};
use whispeer_testkit::wait;

use crate::ground::Ground;

const BOARD: &str = "board/**";
const BOX: usize = 80;
const FINGERPRINT: usize = 20;
const SIGNATURE: usize = 64;

/// Where the length of the pattern stands in a grant.
const LENGTH: usize = 96;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    wait::soon("what is next", future).await
}

fn board() -> GrantOptions {
    GrantOptions::new().topics(BOARD)
}

/// Somebody with an identity, a keyring, and a client that encrypts all but grants.
struct Party {
    identity: Identity,
    keyring: Keyring,
    client: Client,
}

impl Party {
    async fn new(ground: &Ground, is_near: bool) -> Self {
        let keyring = Keyring::new();
        let engines = Engines::new()
            .with(Encryption::new(&keyring).unwrap())
            .topic("granted/*", Chain::new())
            .topic("carried/*", Chain::new());
        let builder = Client::builder().engines(engines);
        let client = match is_near {
            true => builder.connect_memory(&ground.bus.connector()).unwrap(),
            false => soon(Box::pin(builder.connect(ground.socket().to_str().unwrap()))).await.unwrap(),
        };
        Self { identity: Identity::generate().unwrap(), keyring, client }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.identity.public().fingerprint()
    }

    fn accept(&self, grant: &[u8]) -> Result<Accepted, GrantError> {
        self.keyring.accept(&self.identity, grant)
    }

    /// Why the grant is refused. Nothing is changed by it.
    fn refuses(&self, grant: &[u8]) -> GrantError {
        let before = self.keyring.to_toml();
        let refused = self.accept(grant).unwrap_err();
        assert_eq!(*self.keyring.to_toml(), *before, "{refused}");
        refused
    }
}

/// Alice grants; Bob and Dave are members; and Mallory is the bus: grants get from `granted/keys` to `carried/keys` by her
/// hand alone.
struct Scene {
    alice: Party,
    bob: Party,
    dave: Party,
    mallory: Party,
    /// What Mallory hears.
    heard: Subscription<Bytes>,
    /// What Bob hears of grants.
    carried: Subscription<Bytes>,
    ground: Ground,
}

impl Scene {
    async fn new() -> Self {
        let ground = Ground::new(Bus::builder());
        let alice = Box::pin(Party::new(&ground, false)).await;
        let (bob, dave) =
            (Box::pin(Party::new(&ground, true)).await, Box::pin(Party::new(&ground, false)).await);
        let mallory = Box::pin(Party::new(&ground, true)).await;
        for member in [&bob, &dave] {
            member.keyring.pin(Some(BOARD), alice.identity.public()).unwrap();
        }
        alice.keyring.rotate_for(BOARD, Key::generate().unwrap()).unwrap();
        let heard = soon(mallory.client.subscribe_bytes("granted/*")).await.unwrap();
        let carried = soon(bob.client.subscribe_bytes("carried/*")).await.unwrap();
        Self { alice, bob, dave, mallory, heard, carried, ground }
    }

    /// Sends a grant off, and returns what Mallory has of it.
    async fn send(&mut self, grant: Vec<u8>) -> Vec<u8> {
        soon(self.alice.client.publish_bytes("granted/keys", grant)).await.unwrap();
        soon(self.heard.recv()).await.unwrap().1.to_vec()
    }

    /// What arrives where Mallory carries this to Bob.
    async fn carry(&mut self, grant: &[u8]) -> Bytes {
        let grant = Bytes::copy_from_slice(grant);
        soon(self.mallory.client.publish_bytes("carried/keys", grant)).await.unwrap();
        soon(self.carried.recv()).await.unwrap().1
    }

    /// A grant by Alice for Bob, Dave and whoever else is a member.
    async fn grant(&mut self) -> Vec<u8> {
        let members = [*self.bob.identity.public(), *self.dave.identity.public()];
        let grant = self.alice.keyring.grant(&self.alice.identity, &members, &board()).unwrap();
        self.send(grant).await
    }

    async fn refused(&mut self, grant: &[u8]) -> GrantError {
        let came = self.carry(grant).await;
        self.bob.refuses(&came)
    }

    fn is_forged(&self, refused: &GrantError) -> bool {
        *refused == GrantError::Forged { granter: self.alice.fingerprint() }
    }
}

/// The same grant with another pattern.
fn with_pattern(grant: &[u8], pattern: &str) -> Vec<u8> {
    let old = usize::from(u16::from_le_bytes([grant[LENGTH], grant[LENGTH + 1]]));
    let length = u16::try_from(pattern.len()).unwrap().to_le_bytes();
    [&grant[..LENGTH], &length, pattern.as_bytes(), &grant[LENGTH + 2 + old..]].concat()
}

/// Where the boxes begin, of which there are as many as recipients.
fn boxes(grant: &[u8], recipients: usize) -> usize {
    grant.len() - SIGNATURE - recipients * BOX
}

#[tokio::test]
async fn keys_that_the_bus_puts_in_place_of_those_that_were_granted_are_refused() {
    let mut scene = Box::pin(Scene::new()).await;
    let grant = scene.grant().await;
    let members = [*scene.bob.identity.public(), *scene.dave.identity.public()];
    scene.mallory.keyring.rotate_for(BOARD, Key::generate().unwrap()).unwrap();
    let mallory = scene.mallory.fingerprint();
    let pattern = Some(TopicPattern::new(BOARD).unwrap());

    // Her own key, in her own name; in that of Alice; and in a grant of Alice's.
    let own = scene.mallory.keyring.grant(&scene.mallory.identity, &members, &board()).unwrap();
    let not_pinned = GrantError::NotPinned { granter: mallory, pattern };
    assert_eq!(scene.refused(&own).await, not_pinned);
    let mut in_her_name = own.clone();
    in_her_name[16..80].copy_from_slice(&grant[16..80]);
    let refused = scene.refused(&in_her_name).await;
    assert!(scene.is_forged(&refused), "{refused}");
    let mut mixed = grant.clone();
    let from = boxes(&grant, 2);
    mixed[from..from + 2 * BOX].copy_from_slice(&own[from..from + 2 * BOX]);
    let refused = scene.refused(&mixed).await;
    assert!(scene.is_forged(&refused), "{refused}");
    // What Alice has granted, in Mallory's name.
    let mut renamed = grant.clone();
    renamed[16..80].copy_from_slice(&own[16..80]);
    assert_eq!(scene.refused(&renamed).await, not_pinned);
    // To be pinned for something else does not help.
    scene.bob.keyring.pin(Some("games/**"), scene.mallory.identity.public()).unwrap();
    assert_eq!(scene.refused(&own).await, not_pinned);
    let came = scene.carry(&grant).await;
    assert!(scene.bob.accept(&came).unwrap().is_new);
}

#[tokio::test]
async fn grants_that_the_bus_sends_again_are_refused_also_after_a_restart() {
    let mut scene = Box::pin(Scene::new()).await;
    let first = scene.grant().await;
    let came = scene.carry(&first).await;
    scene.bob.accept(&came).unwrap();
    scene.alice.keyring.rotate_for(BOARD, Key::generate().unwrap()).unwrap();
    let second = scene.grant().await;
    let came = scene.carry(&second).await;
    assert!(scene.bob.accept(&came).unwrap().is_new);
    let again = scene.carry(&second).await;
    assert!(!scene.bob.accept(&again).unwrap().is_new);
    for _ in 0..2 {
        let refused = scene.refused(&first).await;
        assert!(matches!(refused, GrantError::RolledBack { generation: 1, last: 2, .. }), "{refused}");
        scene.bob.keyring = Keyring::from_toml(&scene.bob.keyring.to_toml()).unwrap();
    }
    // With a higher number it is not what Alice has signed.
    let mut renumbered = first.clone();
    renumbered[88] = 3;
    let refused = scene.refused(&renumbered).await;
    assert!(scene.is_forged(&refused), "{refused}");
}

#[tokio::test]
async fn grants_that_the_bus_changes_are_refused() {
    let mut scene = Box::pin(Scene::new()).await;
    let grant = scene.grant().await;
    let first = boxes(&grant, 2);
    let prints = first - 2 * FINGERPRINT;

    let mut swapped = grant.clone();
    swapped[first..first + 2 * BOX].rotate_left(BOX);
    let mut retiring = grant.clone();
    retiring[15] ^= 2;
    let mut other_key = grant.clone();
    other_key[80] ^= 1;
    // Without Dave, and without Bob: the one or the other stands first.
    let without = |index: usize| {
        let mut stripped = grant.clone();
        stripped.drain(first + index * BOX..first + (index + 1) * BOX);
        stripped.drain(prints + index * FINGERPRINT..prints + (index + 1) * FINGERPRINT);
        stripped[prints - 2] = 1;
        stripped
    };
    let narrower = with_pattern(&grant, "board/*");
    for changed in [swapped, retiring, other_key, without(0), without(1), narrower] {
        let refused = scene.refused(&changed).await;
        assert!(scene.is_forged(&refused), "{refused}");
    }
    for wider in ["**", "games/**", ""] {
        let refused = scene.refused(&with_pattern(&grant, wider)).await;
        assert!(matches!(refused, GrantError::NotPinned { .. }), "{refused}");
    }
    let refused = scene.refused(&grant[..grant.len() - 1]).await;
    assert!(matches!(refused, GrantError::Malformed { .. }), "{refused}");
    let refused = scene.refused(b"").await;
    assert!(matches!(refused, GrantError::Malformed { .. }), "{refused}");
    let came = scene.carry(&grant).await;
    assert!(scene.bob.accept(&came).unwrap().is_new);
}

/// What comes of a message that was published.
async fn next(subscription: &mut Subscription<Bytes>) -> Result<Bytes, EngineError> {
    match soon(subscription.next_event()).await.unwrap() {
        Event::Message(message) => Ok(message.value),
        Event::Undecodable { error: BusError::Engine { error, .. }, .. } => Err(error),
        other => panic!("{other:?} instead of a message"),
    }
}

#[tokio::test]
async fn a_member_who_was_removed_and_keeps_all_that_he_hears_opens_nothing_that_is_published_after() {
    let mut scene = Box::pin(Scene::new()).await;
    let first = scene.grant().await;
    for member in [&scene.bob, &scene.dave] {
        member.accept(&first).unwrap();
    }
    let mut bob_hears = soon(scene.bob.client.subscribe_bytes("board/*")).await.unwrap();
    let mut dave_hears = soon(scene.dave.client.subscribe_bytes("board/*")).await.unwrap();
    // As bytes, with no engine in between.
    let recorder = scene.ground.client();
    let mut recorded = soon(recorder.subscribe_bytes("**")).await.unwrap();

    soon(scene.alice.client.publish_bytes("board/plans", "before")).await.unwrap();
    assert_eq!(next(&mut bob_hears).await.unwrap(), "before");
    assert_eq!(next(&mut dave_hears).await.unwrap(), "before");

    let revoked = scene.alice.keyring.revoke(&scene.alice.identity, &scene.dave.fingerprint(), &board());
    let second = scene.send(revoked.unwrap()).await;
    let came = scene.carry(&second).await;
    let accepted = scene.bob.accept(&came).unwrap();
    assert!(accepted.is_new);
    assert!(matches!(scene.dave.refuses(&second), GrantError::NotARecipient { .. }));
    for (party, text) in [(&scene.alice, "after"), (&scene.bob, "after all")] {
        soon(party.client.publish_bytes("board/plans", text)).await.unwrap();
        assert_eq!(next(&mut bob_hears).await.unwrap(), text);
        let unknown = EngineError::UnknownKey { key: accepted.key.to_string() };
        assert_eq!(next(&mut dave_hears).await.unwrap_err(), unknown);
    }

    // All that was carried since is of no use to him, as a grant or as a message of before.
    for _ in 0..5 {
        let (topic, payload) = soon(recorded.recv()).await.unwrap();
        assert!(!payload.windows(5).any(|five| five == b"after" || five == b"befor"), "{topic}");
        assert!(matches!(scene.dave.accept(&payload), Err(_) | Ok(Accepted { is_new: false, .. })));
    }
    assert!(scene.dave.keyring.keys().iter().all(|key| key.id != accepted.key));
    // Whom Alice has not removed can have the old key retired; then Dave cannot speak up any more either.
    let third = scene.alice.keyring.grant(&scene.alice.identity, &[], &board().retire_older()).unwrap();
    let came = scene.send(third).await;
    assert_eq!(scene.bob.accept(&came).unwrap().retired.len(), 1);
    soon(scene.dave.client.publish_bytes("board/plans", "it is me")).await.unwrap();
    assert!(matches!(next(&mut bob_hears).await, Err(EngineError::RetiredKey { .. })));
}
