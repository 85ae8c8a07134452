use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn round_trip(json: &str) -> String {
    to_json(&from_json(json.as_bytes()).unwrap())
}

#[test]
fn json_comes_back_as_it_was_sent() {
    for json in [
        "null",
        "true",
        "-1",
        "127",
        "128",
        "-32768",
        "18446744073709551615",
        "-9223372036854775808",
        "1.5",
        "3.902366433304848e-141",
        "\"\"",
        "\"a \\\"quoted\\\" line\\n\"",
        "[]",
        "[1,[2,[3]]]",
        "{\"a\":{\"b\":[null,false]}}",
        "{\"$binary\":\"AAEC/w==\"}",
        "{\"$extension\":-1,\"data\":\"Bw==\"}",
        "[{\"$binary\":\"\"},{\"$extension\":5,\"data\":\"AAECAwQ=\"},[{}]]",
    ] {
        assert_eq!(round_trip(json), json);
    }
    let long = format!("\"{}\"", "x".repeat(70_000));
    assert_eq!(round_trip(&long), long);
    let wide = format!("[{}]", vec!["7"; 70_000].join(","));
    assert_eq!(round_trip(&wide), wide);
}

#[test]
fn what_json_has_no_form_for_is_marked() {
    assert_eq!(to_json(&[0xc4, 2, 1, 2]), r#"{"$binary":"AQI="}"#);
    assert_eq!(to_json(&[0xd4, 0xff, 7]), r#"{"$extension":-1,"data":"Bw=="}"#);
    assert_eq!(to_json(&[0x81, 0x01, 0xc3]), r#"{"1":true}"#);
    assert_eq!(to_json(&[0xa1, 0xff]), r#"{"$binary":"/w=="}"#);
    assert_eq!(to_json(&[0xca, 0x7f, 0x80, 0, 0]), "null");
}

#[test]
fn marks_are_read_back_in_any_order_of_their_keys() {
    assert_eq!(from_json(br#"{"data":"Bw==","$extension":-1}"#).unwrap(), [0xd4, 0xff, 7][..]);
    // An escape in a key or in base64 is none of their matter.
    assert_eq!(from_json(br#"{"\u0024binary":"AQ\u0049="}"#).unwrap(), [0xc4, 2, 1, 2][..]);
}

#[test]
fn an_object_that_is_not_quite_a_mark_is_a_map() {
    for json in [
        r#"{"$binary":"not base64"}"#,
        r#"{"$binary":7}"#,
        r#"{"$binary":["AQI="]}"#,
        r#"{"$binary":"AQI=","more":1}"#,
        r#"{"$extension":200,"data":"Bw=="}"#,
        r#"{"$extension":1.5,"data":"Bw=="}"#,
        r#"{"$extension":1}"#,
        r#"{"$extension":1,"data":{}}"#,
        r#"{"data":"Bw=="}"#,
    ] {
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(from_json(json.as_bytes()).unwrap(), rmp_serde::to_vec(&value).unwrap(), "{json}");
        assert_eq!(round_trip(json), json);
    }
}

#[test]
fn payloads_that_are_no_messagepack_are_shown_whole() {
    assert_eq!(to_json(b""), r#"{"$binary":""}"#);
    assert_eq!(to_json(b"hello"), r#"{"$binary":"aGVsbG8="}"#);
    // A map whose key is a map.
    assert_eq!(to_json(&[0x81, 0x80, 0xc0]), r#"{"$binary":"gYDA"}"#);
    assert_eq!(to_json(&[0xc1]), r#"{"$binary":"wQ=="}"#);
    // An array that claims four billion items and has none.
    assert_eq!(to_json(&[0xdd, 0xff, 0xff, 0xff, 0xff]), r#"{"$binary":"3f////8="}"#);
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    for (text, place) in
        [("", "line 1 column 0"), ("{\"a\":1,\n}", "line 2 column 1"), ("1 2", "line 1 column 3")]
    {
        let error = from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("not JSON: ") && error.ends_with(place), "{error}");
    }
    assert!(from_json(&[b'"', 0xff, b'"']).is_err());
}

#[test]
fn deep_nesting_ends_at_the_limit() {
    let allowed = [vec![0x91; DEPTH_LIMIT], vec![0xc0]].concat();
    assert!(to_json(&allowed).starts_with("[["));
    assert_eq!(from_json(to_json(&allowed).as_bytes()).unwrap(), allowed);
    // One array more, which is empty, and what is shown as an object.
    for last in [&[0x90][..], &[0xc4, 0], &[0xd4, 1, 7], &[0xa1, 0xff]] {
        for (depth, is_marked) in [(DEPTH_LIMIT - 1, false), (DEPTH_LIMIT, true)] {
            let shown = to_json(&[vec![0x91; depth], last.to_vec()].concat());
            assert_eq!(shown.starts_with("{\"$binary\""), is_marked, "{shown}");
            assert!(from_json(shown.as_bytes()).is_ok(), "{shown}");
        }
    }
    let deeper = vec![0x91; 1_000_000];
    assert!(to_json(&deeper).starts_with("{\"$binary\""));
    let error = from_json(&vec![b'['; 1_000_000]).unwrap_err().to_string();
    assert!(error.contains("recursion limit"), "{error}");
}

#[test]
fn every_short_payload_gives_valid_json() {
    for first in 0..=255u8 {
        for second in 0..=255u8 {
            let json = to_json(&[first, second, 0x01]);
            assert!(serde_json::from_str::<Value>(&json).is_ok(), "{first:#x} {second:#x}: {json}");
        }
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200_i64..200).prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            prop::collection::hash_map("[a-c$]{0,3}|data|.{0,8}", inner, 0..20)
                .prop_map(|members| members.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn values_are_written_as_any_encoder_writes_them(value in json()) {
        let text = serde_json::to_vec(&value).unwrap();
        prop_assert_eq!(from_json(&text).unwrap(), rmp_serde::to_vec(&value).unwrap());
    }

    #[test]
    fn whatever_is_shown_can_be_read_and_is_shown_the_same_then(payload: Vec<u8>) {
        let shown = to_json(&payload);
        prop_assert_eq!(to_json(&from_json(shown.as_bytes()).unwrap()), shown);
    }

    #[test]
    fn no_text_does_any_harm(text: Vec<u8>) {
        prop_assert_eq!(from_json(&text).is_ok(), serde_json::from_slice::<Value>(&text).is_ok());
    }
}
