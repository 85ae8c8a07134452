//! Plugins of a broker.

use std::sync::Mutex;
use std::sync::mpsc::SyncSender;

use serde::{Deserialize, Serialize};
use whispeer::broker::{Broker, BrokerBuilder, BrokerOptions, Message, Persistence};
use whispeer::client::{HistoryOptions, PublishOptions};
use whispeer::plugin::{
    HookResult, Hooks, MessageTypes, Plugin, Publishing, Refused, Startup, Subscribing, Transform,
};
use whispeer::prelude::*;

use crate::told_by_handlers::{next, told};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Price {
    cents: u32,
}

fn plain() -> BrokerBuilder {
    Broker::builder(BrokerOptions::default())
}

/// Tells what it is called for, and lets nobody publish to or subscribe to what is secret.
struct Witness(Mutex<SyncSender<String>>);

impl Witness {
    fn tell(&self, what: &str, topic: &str) -> HookResult {
        self.0.lock().unwrap().send(format!("{what} {topic}")).unwrap();
        match topic {
            "secret" => Err(Refused::new("nobody may")),
            _ => Ok(()),
        }
    }
}

impl Plugin for Witness {
    fn name(&self) -> &str {
        "witness"
    }

    fn hooks(&self) -> Hooks {
        Hooks::INIT | Hooks::SUBSCRIBE | Hooks::PUBLISH | Hooks::SHUTDOWN
    }

    async fn on_init(&self, _bus: &Startup) -> HookResult {
        self.tell("init", "")
    }

    async fn on_subscribe(&self, subscribing: &Subscribing) -> HookResult {
        self.tell("subscribe", subscribing.pattern.as_str())
    }

    fn on_publish(&self, message: &mut Publishing<'_>) -> HookResult {
        self.tell("publish", message.topic().as_str())
    }

    async fn on_shutdown(&self) -> HookResult {
        self.tell("shutdown", "")
    }
}

#[test]
fn plugins_see_and_refuse_what_a_broker_does_from_its_beginning_to_its_end() {
    let (tell, seen) = told();
    let broker = Broker::build_default().plugin(Witness(Mutex::new(tell))).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(broker.subscribe("secret", |_: u32| ()).ready()).unwrap_err();
    assert!(matches!(&refused, BusError::Refused { .. }), "{refused:?}");
    assert_eq!(broker.publish("news", 1).wait().unwrap(), 0);
    let refused = broker.publish("secret", 2).wait().unwrap_err();
    assert!(matches!(&refused, BusError::Refused { .. }), "{refused:?}");
    assert_eq!((broker.stats().published, broker.stats().failed), (1, 1));
    drop(broker);
    let seen: Vec<_> = seen.try_iter().collect();
    assert_eq!(seen, ["init ", "subscribe secret", "publish news", "publish secret", "shutdown "]);
}

#[test]
fn plugins_change_what_a_broker_publishes_in_the_order_in_which_they_were_given() {
    let append = |name: &'static str| {
        Transform::new(name, move |message: &mut Publishing<'_>| {
            let before = message.header("way").unwrap_or_default().to_owned();
            message.set_header("way", format!("{before}{name}"));
            Ok(())
        })
    };
    let broker = Broker::build_default().plugin(append("a")).plugin(append("b")).build().unwrap();
    let (tell, came) = told();
    broker.subscribe("prices/*", move |price: Message<Price>| {
        tell.send((price.value, price.headers.find("way").map(str::to_owned))).unwrap();
    });
    let options = PublishOptions::default().header("way", ">");
    assert_eq!(broker.publish_with("prices/pears", Price { cents: 3 }, options).wait().unwrap(), 1);
    assert_eq!(next(&came), (Price { cents: 3 }, Some(">ab".to_owned())));
}

#[test]
fn types_of_messages_are_looked_at_where_a_broker_does_not_seal_them() {
    let types = || MessageTypes::new().typed::<Price>(TopicPattern::new("prices/*").unwrap());
    let broker = plain().plugin(types()).build().unwrap();
    assert_eq!(broker.publish("prices/pears", Price { cents: 3 }).wait().unwrap(), 0);
    let refused = broker.publish("prices/pears", "three").wait().unwrap_err();
    assert!(matches!(refused, BusError::Refused { .. }), "{refused:?}");
    let broker = Broker::build_default().plugin(types()).build().unwrap();
    let refused = broker.publish("prices/pears", Price { cents: 3 }).wait().unwrap_err();
    assert!(matches!(refused, BusError::Sealed { .. }), "{refused:?}");
}

#[test]
fn what_a_plugin_refuses_a_broker_does_not_keep() {
    let (tell, _seen) = told();
    let broker = plain().with(Persistence::memory()).plugin(Witness(Mutex::new(tell))).build().unwrap();
    assert!(broker.publish("secret", 1).wait().is_err());
    broker.publish("news", 2).wait().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kept = runtime.block_on(async {
        let client = Client::new_memory(&broker.connector().unwrap()).unwrap();
        client.history_bytes("**", HistoryOptions::default()).await.unwrap().messages
    });
    let topics: Vec<_> = kept.iter().map(|message| message.topic.as_str()).collect();
    assert_eq!(topics, ["news"]);
}

#[test]
fn plugins_that_cannot_be_are_told_by_build() {
    let twice = |builder: BrokerBuilder| {
        builder.plugin(Transform::new("one", |_| Ok(()))).plugin(Transform::new("one", |_| Ok(())))
    };
    let refused = twice(plain()).build().err().unwrap();
    assert!(matches!(&refused, BusError::InvalidSettings(text) if text.contains("one")), "{refused}");
}

#[cfg(feature = "websocket")]
#[test]
fn a_broker_that_joins_a_bus_has_no_plugins() {
    use whispeer::broker::WebSocket;

    let broker = plain().with(WebSocket::new("http://localhost:0")).build().unwrap();
    let address = broker.local_addrs()[0].to_string();
    let joining = plain().with(WebSocket::join(address)).plugin(Transform::new("one", |_| Ok(()))).build();
    assert!(matches!(joining, Err(BusError::InvalidSettings(text)) if text.contains("no plugins")));
}
