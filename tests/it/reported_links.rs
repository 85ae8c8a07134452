//! What a bus tells of its links to other systems.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use whispeer::bus::{BusStats, LinkStats};
use whispeer::limits;
use whispeer::prelude::*;

fn link(connected: bool) -> LinkStats {
    LinkStats {
        state: if connected { "connected" } else { "away" }.into(),
        connected,
        counts: BTreeMap::from([("connects".into(), 3), ("no metric".into(), 4)]),
        ..LinkStats::default()
    }
}

#[tokio::test]
async fn a_link_is_told_as_it_is_when_somebody_asks_until_its_report_ends() {
    let bus = Bus::builder().start().unwrap();
    let connected = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&connected);
    let report = bus.view().report_link("nats", move || link(seen.load(Ordering::Relaxed))).unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let ask = async || {
        let answer = client.request_bytes("$bus/stats", "".into()).await.unwrap();
        rmp_serde::from_slice::<BusStats>(&answer).unwrap().links
    };
    let [told] = &ask().await[..] else { panic!("one link is told") };
    assert_eq!((told.name.as_str(), told.state.as_str(), told.connected), ("nats", "away", false));
    assert_eq!(told.counts, BTreeMap::from([("connects".to_owned(), 3)]));
    connected.store(true, Ordering::Relaxed);
    assert!(ask().await[0].connected);
    assert_eq!(bus.view().links().unwrap(), bus.stats().links);
    drop(report);
    assert!(ask().await.is_empty());
}

#[tokio::test]
async fn names_are_parts_of_metrics_and_each_link_has_its_own() {
    let bus = Bus::builder().start().unwrap();
    for name in ["", "Nats", "na-ts", &"x".repeat(limits::LINK_NAME_BYTES + 1)] {
        let refused = bus.view().report_link(name, || link(true)).unwrap_err();
        assert!(matches!(refused, BusError::InvalidSettings(_)), "{refused}");
    }
    let reports: Vec<_> = (0..limits::COMPANIONS)
        .map(|number| bus.view().report_link(&format!("link_{number}"), || link(true)).unwrap())
        .collect();
    let twice = bus.view().report_link("link_0", || link(true)).unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");
    let refused = bus.view().report_link("one_more", || link(true)).unwrap_err();
    assert!(matches!(refused, BusError::LimitReached { .. }), "{refused}");
    drop(reports);
    let view = bus.view();
    bus.stop().await;
    assert!(matches!(view.report_link("late", || link(true)), Err(BusError::Closed { .. })));
}
