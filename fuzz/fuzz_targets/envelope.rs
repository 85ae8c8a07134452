//! Payloads from a stranger for a client with engines: each is handed over or told as undecodable, and the subscription
//! lives on; and what a client with engines sends comes out as it was, whatever it looks like.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use whispeer::bus::{Bus, BusHandle};
use whispeer::client::{Client, Event, Subscription};
use whispeer::engine::compression::Compression;
use whispeer::engine::encryption::{Encryption, Key, Keyring};
use whispeer::engine::{Chain, Engines};
use whispeer::{BusError, EngineError};

struct Ground {
    runtime: Runtime,
    stranger: Client,
    member: Client,
    /// Topics with each chain: none, compressed, and both.
    subscriptions: Vec<(&'static str, Subscription<bytes::Bytes>)>,
    _bus: BusHandle,
}

thread_local! {
    static GROUND: std::cell::RefCell<Ground> = std::cell::RefCell::new(Ground::new());
}

impl Ground {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let entered = runtime.enter();
        let bus = Bus::builder().start().expect("a bus");
        let keyring = Keyring::with(Key::from_bytes([7; 32])).expect("a keyring");
        let engines = Engines::new()
            .topic("open", Chain::new())
            .topic("small", Chain::new().with(Compression::new().threshold(0)))
            .with(Encryption::new(&keyring).expect("a random number"))
            .with(Compression::lz4().threshold(0));
        let connector = bus.connector();
        let stranger = Client::new_memory(&connector).expect("a client");
        let member = Client::builder().engines(engines).connect_memory(&connector).expect("a client");
        let subscriptions = ["open", "small", "secret"]
            .map(|topic| (topic, runtime.block_on(member.subscribe_bytes(topic)).expect("a subscription")));
        drop(entered);
        Self { runtime, stranger, member, subscriptions: subscriptions.into(), _bus: bus }
    }
}

/// Why a payload was not opened; it has to be an engine's error.
fn refused(event: Event<bytes::Bytes>) -> Result<bytes::Bytes, EngineError> {
    match event {
        Event::Message(message) => Ok(message.value),
        Event::Undecodable { error: BusError::Engine { error, .. }, .. } => Err(error),
        other => panic!("{other:?}"),
    }
}

fuzz_target!(|input: (bool, Vec<u8>)| {
    let (is_sealed, bytes) = input;
    let arrived = if is_sealed { [&[0xC1, 0x57, 1][..], &bytes].concat() } else { bytes };
    GROUND.with_borrow_mut(|ground| {
        for (topic, subscription) in &mut ground.subscriptions {
            let opened = ground.runtime.block_on(async {
                ground.stranger.publish_bytes(topic, arrived.clone()).await.expect("it is published");
                refused(subscription.next_event().await.expect("the subscription lives"))
            });
            match (&opened, &arrived[..]) {
                (Ok(_), _) if *topic == "secret" => panic!("{opened:?} was taken without encryption"),
                (Err(_), _) if *topic == "secret" => {}
                (Ok(opened), [0xC1, 0x57, 1, 0, payload @ ..]) => assert_eq!(opened, payload),
                // Compressed, which anybody may have done well or badly.
                (_, [0xC1, 0x57, 1, 1, ..]) => {}
                (opened, [0xC1, 0x57, ..]) => assert!(opened.is_err(), "{opened:?}"),
                (opened, plain) => assert_eq!(opened.as_deref(), Ok(plain)),
            }
            let again = ground.runtime.block_on(async {
                ground.member.publish_bytes(topic, arrived.clone()).await.expect("it is published");
                refused(subscription.next_event().await.expect("the subscription lives"))
            });
            assert_eq!(again.as_deref(), Ok(&arrived[..]), "{topic}");
        }
    });
});
