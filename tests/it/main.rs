//! The integration tests: a module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

#[macro_use]
mod schemes;

mod attach;
#[cfg(feature = "auth")]
mod authentication;
mod bounded_dead_letters;
mod broken_links;
#[cfg(feature = "broker")]
mod broker;
#[cfg(all(feature = "broker", feature = "sqlite"))]
mod broker_durable;
#[cfg(feature = "broker")]
mod broker_plugins;
#[cfg(all(feature = "broker", feature = "sqlite"))]
mod broker_publishing;
#[cfg(all(feature = "broker", feature = "sqlite"))]
mod broker_store;
mod built_in_plugins;
mod busy_stores;
mod certified;
mod claims;
#[cfg(feature = "quic")]
mod coming_back;
mod companions;
mod conformance;
mod consumers;
mod contents;
mod crowded_links;
#[cfg(all(feature = "metrics", feature = "sqlite"))]
mod dashboard;
mod dead_letters;
mod delayed;
mod drained_consumers;
mod engines;
mod examples;
mod failing_plugins;
mod fair_shares;
mod full_stores;
mod ghosts;
mod grants;
mod ground;

mod held_pages;
mod history;
mod hostile;
mod import_rule;
mod in_place;
mod introspection;
mod joint_store;
mod kept_once;
mod late_stores;
mod lifecycle;
mod limits;
#[cfg(all(feature = "metrics", feature = "sqlite"))]
mod metrics;
mod model;
mod moving;
mod neighbours;
mod opened_consumers;
mod orders;
mod owned_consumers;
mod passed;
mod plugins;
mod policies;
mod presence;
mod quic;
mod read_ahead;
mod recreated;
mod regressions;
mod relays;
mod reload;
mod replays;
mod reported_links;
mod requests;
#[cfg(feature = "sqlite")]
mod restored;
#[cfg(feature = "auth")]
mod rights;
mod scattered;
mod settled_dead_letters;
mod shared_consumers;
mod shared_groups;
mod slow_handlers;
mod slow_peers;
mod stalled_stores;
#[cfg(feature = "auth")]
mod strangers;
mod streams;
mod successors;
mod tampered_store;
mod tcp;
mod tls;
#[cfg(feature = "broker")]
mod told_by_handlers;
mod totals;
#[cfg(feature = "sqlite")]
mod trace;
mod ttl;
mod turns;
mod unacknowledged;
mod unix;
mod unread;
mod uplink;
mod values;
mod views;
mod vouched;
mod websocket;
mod wills;
mod withheld;
