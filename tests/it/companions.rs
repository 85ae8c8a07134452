//! Tasks that run beside a bus and belong to it.

use std::future::{Ready, pending};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use whispeer::auth::Principal;
use whispeer::bus::BusView;
use whispeer::limits;
use whispeer::prelude::*;
use whispeer::transport::Peer;
use whispeer_testkit::wait::soon;

fn connect(view: &BusView) -> Client {
    let porter = Principal::Token { issuer: "house".into(), subject: "porter".into() };
    let link = view.connect(Peer::new(porter, "memory")).unwrap();
    Client::builder().name("porter").no_reconnect().connect_link(link).unwrap()
}

/// Says when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

fn dropped() -> (Dropped, oneshot::Receiver<()>) {
    let (tell, told) = oneshot::channel();
    (Dropped(Some(tell)), told)
}

#[tokio::test]
async fn a_companion_is_a_client_of_its_bus() {
    let (tell, told) = oneshot::channel();
    let bus = Bus::builder()
        .companion(|view| async move {
            let client = connect(&view);
            let mut door = client.serve_bytes("door").await.unwrap();
            tell.send(()).unwrap();
            while let Some((_, request, _)) = door.recv().await {
                client.respond_bytes(request, "welcome".into()).await.unwrap();
            }
        })
        .start()
        .unwrap();
    soon("its serving", told).await.unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    assert_eq!(client.request_bytes("door", "".into()).await.unwrap(), "welcome");
    bus.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_companion_is_told_when_a_bus_that_drains_has_finished_with_its_clients() {
    let (tell, mut told) = mpsc::channel(2);
    let bus = Bus::builder()
        .companion(move |view| async move {
            view.draining().await;
            tell.send("draining").await.unwrap();
            view.drained().await;
            tell.send("drained").await.unwrap();
        })
        .start()
        .unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    let mut serving = client.serve_bytes("slow").await.unwrap();
    let work = async {
        let (_, request, _) = soon("the request", serving.recv()).await.unwrap();
        let finishing = async {
            assert_eq!(soon("the news", told.recv()).await, Some("draining"));
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(told.try_recv().is_err(), "a request is under way");
            client.respond_bytes(request, "done".into()).await.unwrap();
        };
        tokio::join!(bus.drain(Duration::from_secs(60)), finishing);
    };
    let (answer, ()) = tokio::join!(client.request_bytes("slow", "".into()), work);
    assert_eq!(answer.unwrap(), "done");
    assert_eq!(told.recv().await, Some("drained"));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_companion_while_the_bus_serves_it() {
    let (tell, mut told) = mpsc::channel(1);
    let bus = Bus::builder()
        .companion(move |view| async move {
            let client = connect(&view);
            client.ping().await.unwrap();
            view.draining().await;
            tokio::time::sleep(limits::COMPANION_GRACE / 2).await;
            client.ping().await.unwrap();
            tell.send("ended").await.unwrap();
        })
        .start()
        .unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    client.ping().await.unwrap();
    bus.drain(Duration::from_secs(60)).await;
    assert_eq!(told.try_recv().unwrap(), "ended");
}

#[tokio::test(start_paused = true)]
async fn a_companion_that_does_not_end_is_dropped_in_the_end() {
    for drains in [false, true] {
        let (guard, told) = dropped();
        let bus = Bus::builder()
            .companion(move |_| async move {
                let _guard = guard;
                pending().await
            })
            .start()
            .unwrap();
        Client::new_memory(&bus.connector()).unwrap().ping().await.unwrap();
        let start = Instant::now();
        match drains {
            true => bus.drain(Duration::from_secs(60)).await,
            false => bus.stop().await,
        }
        soon("its end", told).await.unwrap();
        let took = start.elapsed();
        assert!((limits::COMPANION_GRACE..3 * limits::COMPANION_GRACE).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_companion_does_not_prolong_a_drain_beyond_its_grace() {
    let bus = Bus::builder().companion(|_| pending()).start().unwrap();
    Client::new_memory(&bus.connector()).unwrap().ping().await.unwrap();
    let start = Instant::now();
    bus.drain(Duration::from_millis(100)).await;
    let (took, grace) = (start.elapsed(), limits::COMPANION_GRACE);
    // The stop behind it has its own.
    assert!(took < grace + Duration::from_millis(200), "{took:?}");
}

#[tokio::test]
async fn a_companion_ends_with_a_bus_whose_handle_is_dropped() {
    let (guard, told) = dropped();
    let bus = Bus::builder()
        .companion(move |view| async move {
            let _guard = guard;
            view.draining().await;
        })
        .start()
        .unwrap();
    Client::new_memory(&bus.connector()).unwrap().ping().await.unwrap();
    drop(bus);
    soon("its end", told).await.unwrap();
}

#[tokio::test]
async fn a_companion_that_panics_or_ends_leaves_the_bus_and_its_neighbours_alone() {
    let (ask, asked) = oneshot::channel::<()>();
    let (guard, panicked) = dropped();
    let bus = Bus::builder()
        .companion(move |_| -> Ready<()> {
            let _guard = guard;
            panic!("before there is a future")
        })
        .companion(|_| async {})
        .companion(move |_| async move { asked.await.unwrap() })
        .start()
        .unwrap();
    let client = Client::new_memory(&bus.connector()).unwrap();
    client.ping().await.unwrap();
    soon("the panic", panicked).await.unwrap();
    client.ping().await.unwrap();
    ask.send(()).expect("the third one runs");
    bus.drain(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_bus_with_too_many_companions_does_not_start() {
    let many = (0..=limits::COMPANIONS).fold(Bus::builder(), |bus, _| bus.companion(|_| async {}));
    let refused = many.start().unwrap_err();
    assert!(matches!(&refused, BusError::InvalidSettings(why) if why.contains("17 companions")), "{refused}");
}
