//! Links within the process run the tasks at their ends where something is sent: from any thread, and
//! from within each other.

use std::time::Duration;

use whispeer::client::SubscribeOptions;
use whispeer::prelude::*;
use whispeer_testkit::wait::soon;

use crate::ground::settings;

const CLIENTS: usize = 4;
const MESSAGES: u32 = 3_000;

/// Everybody publishes to everybody, through windows that are used up all the time, and asks everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_left_behind_when_all_threads_send_to_all() {
    let bus = settings(|settings| {
        // Nobody is slow, but a thread may have to wait for a processor.
        settings.block_limit = Duration::from_secs(60);
        settings.publish_window = (16, 4096);
    });
    let bus = bus.start().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::new_memory(&bus.connector()).unwrap()).collect();
    let mut subscriptions = Vec::new();
    let mut handlings = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let window = SubscribeOptions::default().window(8, 1024);
        subscriptions.push(client.subscribe_bytes_with("all", window).await.unwrap());
        let topic = format!("echo/{number}");
        handlings.push(client.handle_bytes(&topic, |payload| async { Ok(payload) }).await.unwrap());
    }
    for (number, client) in clients.iter().cloned().enumerate() {
        let publisher = client.publisher_bytes("all").unwrap();
        tasks.spawn(async move {
            for message in 0..MESSAGES {
                publisher.send(&message.to_le_bytes().to_vec().into()).await.unwrap();
            }
            publisher.flush().await.unwrap();
        });
        let asks = client.clone();
        tasks.spawn(async move {
            for message in 0..MESSAGES / 4 {
                let topic = format!("echo/{}", (number + message as usize) % CLIENTS);
                let payload = message.to_le_bytes().to_vec();
                assert_eq!(asks.request_bytes(&topic, payload.clone().into()).await.unwrap(), payload);
            }
        });
    }
    for mut subscription in subscriptions {
        tasks.spawn(async move {
            for _ in 0..CLIENTS * MESSAGES as usize {
                subscription.recv().await.unwrap();
            }
            assert_eq!(subscription.gaps(), 0);
        });
    }
    let all = async {
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
    };
    if tokio::time::timeout(Duration::from_secs(50), all).await.is_err() {
        panic!("left behind: {:#?}\n{:#?}\n{:#?}", bus.stats(), bus.sessions(), bus.subscriptions());
    }
    drop((handlings, clients));
    soon("the end of the bus", bus.stop()).await;
}
