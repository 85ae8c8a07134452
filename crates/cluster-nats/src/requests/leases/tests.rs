use whispeer::bus::BusView;
use whispeer::prelude::*;

use super::*;

/// Leases of a bus whose NATS is not there, and says nothing.
async fn leases(bus: BusView) -> Leases {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let nats = options.connect("nats://127.0.0.1:1").await.unwrap();
    let (members, subjects) = (Members::new(1), Subjects::new("whispeer").unwrap());
    let claims = bus.serve_claims().unwrap();
    let mut leases = Leases::new(members, nats, &subjects, LeaseSettings::default(), claims);
    leases.connected(true);
    leases
}

#[tokio::test]
async fn topics_with_a_single_server_are_bounded_and_one_more_is_refused_with_a_typed_error() {
    let bus = Bus::builder().start().unwrap();
    let mut leases = leases(bus.view()).await;
    for number in 0..limits::SERVED_TOPICS {
        assert!(!leases.serve(&Topic::new(format!("topic/{number}")).unwrap()), "nobody has agreed");
    }
    assert!(!leases.serve(&Topic::new("more").unwrap()));
    assert_eq!(leases.topics.len(), limits::SERVED_TOPICS);

    let client = Client::new_memory(&bus.connector()).unwrap();
    let wish = tokio::spawn(async move { client.serve_bytes("more").await.map(drop) });
    let answered = tokio::select! {
        answered = wish => answered.unwrap(),
        news = leases.next() => panic!("{news:?}"),
    };
    assert!(matches!(answered, Err(BusError::LimitReached { .. })), "{answered:?}");

    for number in 0..limits::SERVED_TOPICS {
        leases.gone(&Topic::new(format!("topic/{number}")).unwrap());
    }
    assert!(leases.topics.is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_nobody_answers_a_session_serves_after_a_while_and_at_once_where_nobody_is_connected() {
    let bus = Bus::builder().start().unwrap();
    let mut leases = leases(bus.view()).await;
    let client = Client::new_memory(&bus.connector()).unwrap();
    for (is_connected, wait) in [(true, limits::LEASE_CLAIM), (false, Duration::ZERO)] {
        leases.connected(is_connected);
        let begun = Instant::now();
        let other = client.clone();
        let wish = tokio::spawn(async move { other.serve_bytes("clock").await.map(drop) });
        tokio::select! {
            served = wish => served.unwrap().unwrap(),
            news = leases.next() => panic!("{news:?}"),
        }
        let after = begun.elapsed();
        assert!(after >= wait && after < wait + Duration::from_secs(1), "{after:?}");
        assert!(!leases.holds(&Topic::new("clock").unwrap(), Instant::now()));
    }
}

#[test]
fn a_lease_is_ended_by_others_later_than_by_its_bus_by_a_tenth() {
    let settings = LeaseSettings::default();
    assert_eq!(settings.outlives(), Duration::from_secs(11));
    assert!(limits::LEASE_CLAIM < whispeer::limits::SERVE_CLAIM);
    assert!(settings.patience() + settings.lasts / 3 < settings.lasts, "a renewal can be tried again");
}
