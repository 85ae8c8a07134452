//! Who may serve a topic alone, where somebody decides that over several buses.

use whispeer::auth::Principal;
use whispeer::bus::{BusHandle, ServeClaim, ServeClaims};
use whispeer::client::ServeOptions;
use whispeer::prelude::*;
use whispeer::proto::fields::ServeMode;
use whispeer::transport::Peer;
use whispeer_testkit::wait::{eventually, now_or_never, soon};

fn ground() -> (BusHandle, Client, ServeClaims) {
    let bus = Bus::builder().start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let claims = bus.view().serve_claims().unwrap();
    (bus, client, claims)
}

/// A wish to serve `clock`.
fn serve(
    client: &Client,
    options: ServeOptions,
) -> tokio::task::JoinHandle<BusResult<whispeer::client::Serving<bytes::Bytes>>> {
    let client = client.clone();
    tokio::spawn(async move { client.serve_bytes_with("clock", options).await })
}

async fn next(claims: &mut ServeClaims) -> ServeClaim {
    soon("a claim", claims.next()).await.unwrap()
}

fn taken() -> BusError {
    BusError::AlreadyServed { topic: "clock".into() }
}

#[tokio::test]
async fn who_wants_to_be_the_only_server_waits_until_that_is_agreed_to() {
    let (bus, client, mut claims) = ground();
    let serving = serve(&client, ServeOptions::default());
    let claim = next(&mut claims).await;
    assert_eq!((claim.topic().as_str(), claim.mode()), ("clock", ServeMode::Join));
    client.ping().await.unwrap();
    assert!(!serving.is_finished() && bus.view().served().unwrap().is_empty());
    let nobody = client.request_bytes("clock", "".into()).await;
    assert!(matches!(nobody, Err(BusError::NoServer { .. })), "{nobody:?}");

    claim.agree();
    let mut serving = soon("the serving", serving).await.unwrap().unwrap();
    let (answer, ()) = tokio::join!(client.request_bytes("clock", "".into()), async {
        let (_, id, _) = serving.recv().await.unwrap();
        client.respond_bytes(id, "noon".into()).await.unwrap();
    });
    assert_eq!(answer.unwrap(), "noon");
}

#[tokio::test]
async fn who_is_refused_gets_the_error_that_he_is_refused_with_and_may_ask_again() {
    let (bus, client, mut claims) = ground();
    let refused = serve(&client, ServeOptions::default());
    next(&mut claims).await.refuse(taken());
    let refused = soon("the refusal", refused).await.unwrap().map(drop);
    assert!(matches!(&refused, Err(BusError::AlreadyServed { topic }) if topic == "clock"), "{refused:?}");
    assert!(bus.view().served().unwrap().is_empty());

    let again = serve(&client, ServeOptions::default().take_over());
    let claim = next(&mut claims).await;
    assert_eq!(claim.mode(), ServeMode::TakeOver);
    claim.agree();
    soon("the serving", again).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_bus_decides_alone_what_it_refuses_and_what_is_shared_or_its_own() {
    let (bus, client, mut claims) = ground();
    let _group = client.serve_bytes_with("shared", ServeOptions::default().group("g")).await.unwrap();
    let own = bus.view().connect(Peer::new(Principal::Bus, "test")).unwrap();
    let own = Client::builder().no_reconnect().connect_link(own).unwrap();
    let _own = own.serve_bytes("$bus/other").await.unwrap();
    let refused = client.serve_bytes("shared").await.map(drop);
    assert!(matches!(refused, Err(BusError::AlreadyServed { .. })), "{refused:?}");
    assert!(now_or_never(claims.next()).await.is_none());
}

#[tokio::test]
async fn of_several_wishes_that_are_agreed_to_one_is_served() {
    let (_bus, client, mut claims) = ground();
    let wishes = [serve(&client, ServeOptions::default()), serve(&client, ServeOptions::default())];
    let both = [next(&mut claims).await, next(&mut claims).await];
    for claim in both {
        claim.agree();
    }
    let mut served = Vec::new();
    for wish in wishes {
        served.push(soon("an answer", wish).await.unwrap());
    }
    assert_eq!(served.iter().filter(|one| one.is_ok()).count(), 1, "{served:?}");
    assert!(served.iter().any(|one| matches!(one, Err(BusError::AlreadyServed { .. }))), "{served:?}");
}

#[tokio::test]
async fn a_wish_that_is_taken_back_or_whose_session_ends_is_given_up() {
    let (bus, client, mut claims) = ground();
    let wish = serve(&client, ServeOptions::default());
    let claim = next(&mut claims).await;
    wish.abort();
    eventually("it is given up", || claim.is_given_up()).await;
    claim.agree();

    let other = Client::new_memory(&bus.connector()).unwrap();
    let _wish = serve(&other, ServeOptions::default());
    let claim = next(&mut claims).await;
    other.close().await.unwrap();
    eventually("it is given up", || claim.is_given_up()).await;
    claim.agree();
    client.ping().await.unwrap();
    assert!(bus.view().served().unwrap().is_empty());
}

#[tokio::test]
async fn where_nobody_decides_any_more_the_bus_does() {
    let (bus, client, mut claims) = ground();
    assert!(
        matches!(bus.view().serve_claims(), Err(BusError::LimitReached { .. })),
        "there is one at a time"
    );
    let wish = serve(&client, ServeOptions::default());
    let claim = next(&mut claims).await;
    drop(claim);
    let serving = soon("the serving", wish).await.unwrap().unwrap();
    drop(serving);
    drop(claims);
    let _other = client.serve_bytes("other").await.unwrap();

    let mut claims = bus.view().serve_claims().unwrap();
    let (ended, ()) = tokio::join!(claims.next(), bus.stop());
    assert!(ended.is_none());
}

#[tokio::test(start_paused = true)]
async fn whoever_decides_too_late_is_not_waited_for() {
    let (_bus, client, mut claims) = ground();
    let begun = tokio::time::Instant::now();
    let wish = serve(&client, ServeOptions::default());
    let claim = next(&mut claims).await;
    wish.await.unwrap().unwrap();
    assert!(begun.elapsed() >= whispeer::limits::SERVE_CLAIM, "{:?}", begun.elapsed());
    assert!(claim.is_given_up());
}

#[tokio::test]
async fn wishes_count_among_the_servings_of_a_session() {
    let settings = whispeer::bus::Settings { max_servings: 1, ..Default::default() };
    let bus = Bus::builder().settings(settings).start().unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut claims = bus.view().serve_claims().unwrap();
    let _wish = serve(&client, ServeOptions::default());
    let _claim = next(&mut claims).await;
    let other = client.serve_bytes("other").await.map(drop);
    assert!(matches!(other, Err(BusError::LimitReached { .. })), "{other:?}");
}
