//! Who is let in, and until when.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac::{HMAC_SHA256, HMAC_SHA384, HMAC_SHA512};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{KEY, Place, Socket, seconds, signed, token};

fn refused() -> Value {
    json!({"id": 1, "error": {"code": 401, "message": "not authenticated"}})
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_and_nothing_is_told_about_why() {
    let place = Place::new().await;
    let good = token(&json!({}));
    let claims = json!({"sub": "user-123", "exp": seconds(3600), "channels": []});
    let (header, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let forged =
        URL_SAFE_NO_PAD.encode(json!({"sub": "admin", "exp": seconds(3600), "channels": []}).to_string());
    let other_key = "another secret that is long enough to be one";
    let hostile = [
        ("the algorithm none", format!("{none}.{body}.")),
        ("the algorithm none with a signature", format!("{none}.{body}.{signature}")),
        ("another algorithm of the same key", signed(&json!({"alg": "HS512"}), &claims, HMAC_SHA512, KEY)),
        ("yet another one", signed(&json!({"alg": "HS384"}), &claims, HMAC_SHA384, KEY)),
        (
            "the name of an algorithm with a key pair",
            signed(&json!({"alg": "RS256"}), &claims, HMAC_SHA256, KEY),
        ),
        ("an algorithm in small letters", signed(&json!({"alg": "hs256"}), &claims, HMAC_SHA256, KEY)),
        ("no algorithm", signed(&json!({"typ": "JWT"}), &claims, HMAC_SHA256, KEY)),
        (
            "a key that it brings",
            signed(&json!({"alg": "HS256", "jwk": {"kty": "oct"}}), &claims, HMAC_SHA256, other_key),
        ),
        ("another key", signed(&json!({"alg": "HS256"}), &claims, HMAC_SHA256, other_key)),
        ("an empty key", signed(&json!({"alg": "HS256"}), &claims, HMAC_SHA256, "")),
        ("claims that were changed", format!("{header}.{forged}.{signature}")),
        ("no signature", format!("{header}.{body}.")),
        ("a signature that was cut off", good[..good.len() - 2].to_owned()),
        ("a signature with more behind", format!("{good}AA")),
        ("four parts", format!("{good}.{signature}")),
        ("two parts", format!("{header}.{body}")),
        ("a space", format!("{good} ")),
        ("nothing", String::new()),
        ("dots", "..".into()),
        ("nul", "\0.\0.\0".into()),
        ("too much of it", token(&json!({"more": "x".repeat(8 * 1024)}))),
        ("an end in the past", token(&json!({"exp": seconds(-1)}))),
        ("an end in 1970", token(&json!({"exp": 0}))),
        ("an end before that", token(&json!({"exp": -5}))),
        ("no end", token(&json!({"exp": null}))),
        ("an end that is no number", token(&json!({"exp": "2100-01-01"}))),
        ("a beginning in the future", token(&json!({"nbf": seconds(60)}))),
        ("no subject", token(&json!({"sub": null}))),
        ("an empty subject", token(&json!({"sub": ""}))),
        ("a subject that is no text", token(&json!({"sub": 7}))),
        ("no channels", token(&json!({"channels": null}))),
        ("channels that are no list", token(&json!({"channels": "chat:lobby"}))),
        ("channels that are no texts", token(&json!({"channels": [1]}))),
    ];
    let mut socket = Socket::open(place.address()).await;
    for (what, token) in hostile {
        assert_eq!(socket.try_connect(&token).await, refused(), "{what}");
    }
    // It is the same socket that a good one lets in.
    socket.connect(&good).await;

    // Before it is known who sends it, no more than this is read.
    let mut socket = Socket::open(place.address()).await;
    let long = json!({"id": 1, "method": "connect", "params": {"token": "x".repeat(16 * 1024)}});
    socket.send(&long).await;
    assert_eq!(socket.closed().await, 1009);
}

#[tokio::test]
async fn a_token_is_good_for_what_it_is_made_out_to() {
    let place = Place::with(|settings| settings.audience = Some("chat".into())).await;
    let mut socket = Socket::open(place.address()).await;
    assert_eq!(socket.try_connect(&token(&json!({}))).await, refused());
    assert_eq!(socket.try_connect(&token(&json!({"aud": "popsub"}))).await, refused());
    socket.connect(&token(&json!({"aud": ["popsub", "chat"]}))).await;
    // Where nothing is asked for, anything may stand there.
    let place = Place::new().await;
    Socket::open(place.address()).await.connect(&token(&json!({"aud": "popsub"}))).await;
}

#[tokio::test]
async fn an_end_that_no_clock_gets_to_is_one_that_never_comes() {
    let place = Place::new().await;
    for end in [json!(1e15), json!(4_102_444_800.5), json!(u64::MAX)] {
        let mut socket = Socket::open(place.address()).await;
        socket.connect(&token(&json!({"exp": end}))).await;
        assert_eq!(socket.subscribe("chat:lobby").await["result"]["subscribed"], true);
    }
}

#[tokio::test]
async fn a_socket_whose_token_expires_is_told_so_and_closed_at_that_moment() {
    let place = Place::new().await;
    let mut socket = Socket::open(place.address()).await;
    socket.connect(&token(&json!({"exp": seconds(20)}))).await;
    socket.subscribe("chat:lobby").await;
    let mut other = place.subscribed("chat:lobby").await;

    tokio::time::pause();
    let begun = Instant::now();
    assert_eq!(socket.next().await, json!({"error": {"code": 401, "message": "token expired"}}));
    assert_eq!(socket.closed().await, 1008);
    let took = begun.elapsed();
    assert!((Duration::from_secs(17)..=Duration::from_secs(20)).contains(&took), "{took:?}");

    tokio::time::resume();
    // Others stay, and nothing goes to it any more.
    assert_eq!(place.publish("chat:lobby", &json!(1)).await, json!({"ok": true, "delivered": 1}));
    assert_eq!(other.next().await["params"]["data"], 1);
}

#[tokio::test]
async fn a_socket_that_does_not_connect_in_time_is_closed() {
    let place = Place::new().await;
    let mut silent = Socket::open(place.address()).await;
    let mut talking = Socket::open(place.address()).await;
    tokio::time::pause();
    let begun = Instant::now();
    // Neither pings nor tokens that are not good give it more time.
    assert_eq!(talking.ask(&json!({"id": 1, "method": "ping"})).await["result"]["pong"], true);
    assert_eq!(talking.try_connect("a.b.c").await, refused());
    assert_eq!(silent.closed().await, 1008);
    assert_eq!(talking.closed().await, 1008);
    assert!((Duration::from_secs(14)..Duration::from_secs(16)).contains(&begun.elapsed()));
}
