//! Keys for a group, handed over by a bus that does not learn them, and taken from one who leaves.
//!
//!     cargo run --example 10_key_grants --features encryption
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use whispeer::client::{Event, Subscription};
use whispeer::engine::encryption::{Encryption, GrantOptions, Identity, Key, Keyring, PublicIdentity};
use whispeer::engine::{Chain, Engines};
use whispeer::prelude::*;
use whispeer::transport::MemoryConnector;

/// Somebody with an identity and the keys that were granted to it.
struct Member {
    identity: Identity,
    keyring: Keyring,
    client: Client,
    grants: Subscription<bytes::Bytes>,
    board: Subscription<bytes::Bytes>,
}

impl Member {
    async fn new(connector: &MemoryConnector, granter: &PublicIdentity) -> BusResult<Self> {
        let identity = Identity::generate()?;
        let keyring = Keyring::new();
        // In life they compare fingerprints first, by telephone for example.
        keyring.pin(Some("board/**"), granter)?;
        let client = connect(connector, &keyring)?;
        let grants = client.subscribe_bytes("team/keys").await?;
        let board = client.subscribe_bytes("board/*").await?;
        Ok(Self { identity, keyring, client, grants, board })
    }

    /// Takes the next grant, and says what came of it.
    async fn take_key(&mut self) -> Result<String, Box<dyn Error>> {
        let (_, grant) = self.grants.recv().await.ok_or("no grant came")?;
        Ok(match self.keyring.accept(&self.identity, &grant) {
            // A program that goes on after a restart stores the keyring now: `keyring.to_toml()`.
            Ok(accepted) => format!("has key {}, grant number {}", accepted.key, accepted.generation),
            Err(refused) => format!("is told: {refused}"),
        })
    }

    /// What comes on the board next.
    async fn reads(&mut self) -> Result<String, Box<dyn Error>> {
        match self.board.next_event().await {
            Some(Event::Message(message)) => {
                Ok(format!("reads: {}", String::from_utf8_lossy(&message.value)))
            }
            Some(Event::Undecodable { error, .. }) => Ok(format!("is told: {error}")),
            other => Err(format!("{other:?} instead of a message").into()),
        }
    }
}

/// A client that encrypts all but grants, which are sealed by themselves.
fn connect(connector: &MemoryConnector, keyring: &Keyring) -> BusResult<Client> {
    let engines = Engines::new().with(Encryption::new(keyring)?).topic("team/keys", Chain::new());
    Client::builder().engines(engines).connect_memory(connector)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let (_bus, connector) = listen_and_serve_memory()?;

    // Alice makes the key for the board.
    let alice = Identity::generate()?;
    let keyring = Keyring::new();
    keyring.rotate_for("board/**", Key::generate()?)?;
    let client = connect(&connector, &keyring)?;
    println!("alice is {}", alice.public().fingerprint());

    let mut bob = Member::new(&connector, alice.public()).await?;
    let mut carol = Member::new(&connector, alice.public()).await?;
    // Somebody who sees all that the bus sees.
    let eve = Client::new_memory(&connector)?;
    let mut overheard = eve.subscribe_bytes("**").await?;

    // One grant for both, through the bus.
    let board = GrantOptions::new().topics("board/**");
    let members = [*bob.identity.public(), *carol.identity.public()];
    client.publish_bytes("team/keys", keyring.grant(&alice, &members, &board)?).await?;
    println!("bob {}", bob.take_key().await?);
    println!("carol {}", carol.take_key().await?);
    client.publish_bytes("board/plans", "the mill at nine").await?;
    println!("bob {}", bob.reads().await?);
    println!("carol {}", carol.reads().await?);

    // Carol leaves: there is another key for those who stay.
    let carols = carol.identity.public().fingerprint();
    client.publish_bytes("team/keys", keyring.revoke(&alice, &carols, &board)?).await?;
    println!("bob {}", bob.take_key().await?);
    println!("carol {}", carol.take_key().await?);
    bob.client.publish_bytes("board/plans", "no, the old bridge at ten").await?;
    let (bob_reads, carol_reads) = (bob.reads().await?, carol.reads().await?);
    println!("bob {bob_reads}");
    println!("carol {carol_reads}");
    assert!(bob_reads.contains("the old bridge") && !carol_reads.contains("bridge"));

    // Eve has seen two grants and two messages, and nothing of what was said.
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (topic, payload) = overheard.recv().await.ok_or("eve got nothing")?;
        println!("eve sees {} bytes on {topic}", payload.len());
        assert!(!payload.windows(6).any(|six| six == b"bridge" || six == b"e mill"));
        seen.push(payload);
    }
    // When she sends the first grant again, nobody goes back to the key that carol has.
    eve.publish_bytes("team/keys", seen.swap_remove(0)).await?;
    println!("bob {}", bob.take_key().await?);
    Ok(())
}
