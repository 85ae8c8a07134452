//! Transcripts of the dialect, in the process.

use serde_json::json;

use super::{API_KEY, Place, token};
use crate::player::play;

/// How many subscriptions a session may have in these transcripts.
const SUBSCRIPTIONS: usize = 3;

macro_rules! transcripts {
    ($($name:ident: $patterns:literal),* $(,)?) => {$(
        #[tokio::test]
        async fn $name() {
            let text = include_str!(concat!("../../transcripts/turbine/", stringify!($name), ".txt"));
            played(text, $patterns).await;
        }
    )*};
}

transcripts!(document: false, commands: false, errors: false, publishing: false, patterns: true);

async fn played(transcript: &str, patterns: bool) {
    let place = Place::with(|settings| {
        settings.max_subscriptions = SUBSCRIPTIONS;
        settings.patterns = patterns;
    })
    .await;
    let listed = json!({"channels": ["chat:lobby", "notifications:user-123", "rooms/**"]});
    let variables = [
        ("API_KEY", API_KEY),
        ("TOKEN", &token(&json!({}))),
        ("LISTED", &token(&listed)),
        ("EXPIRED", &token(&json!({"exp": 1_700_000_000}))),
    ];
    play(place.address(), transcript, &variables).await;
    place.gateway.stop().await;
}
