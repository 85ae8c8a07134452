//! Schemas as text, from values, and against each other.

use proptest::prelude::*;
use serde::Serialize;

use super::read;
use super::schema::{Member, Schema, Shape};

fn schema(text: &str) -> Schema {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn differences(expected: &str, value: &impl Serialize) -> Vec<String> {
    let payload = rmp_serde::to_vec_named(value).unwrap();
    schema(expected).differences(&Schema(read::shape(&payload).unwrap()))
}

#[derive(Serialize)]
struct Order {
    customer: &'static str,
    pieces: u32,
    note: Option<&'static str>,
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    price: f64,
}

const ORDER: Order = Order { customer: "ann", pieces: 2, note: None, lines: Vec::new() };

#[test]
fn what_meets_a_schema_has_no_differences() {
    let exact = "{customer: string, pieces: integer, note?: string, lines: [{price: float}]}";
    assert_eq!(differences(exact, &ORDER), [""; 0]);
    let full = Order { note: Some("soon"), lines: vec![Line { price: 1.5 }, Line { price: 2.0 }], ..ORDER };
    assert_eq!(differences(exact, &full), [""; 0]);
    assert_eq!(differences("{customer: any, ...}", &full), [""; 0]);
    assert_eq!(differences("{*: any}", &full), [""; 0]);
    assert_eq!(differences("float", &3), [""; 0]);
    assert_eq!(differences("[integer | string?]", &(1, "two", None::<u8>)), [""; 0]);
    assert_eq!(differences("any", &full), [""; 0]);
}

#[test]
fn each_difference_is_told_with_its_place() {
    let full = Order { lines: vec![Line { price: 1.5 }], ..ORDER };
    let expected =
        "{customer: string, pieces: string, note: string, lines: [{price: integer}], paid: boolean}";
    assert_eq!(
        differences(expected, &full),
        [
            "`lines[].price` is a float and not an integer",
            "`note` is nil and not a string",
            "`paid` is missing",
            "`pieces` is an integer and not a string",
        ]
    );
    assert_eq!(
        differences("{customer: string}", &Line { price: 1.0 }),
        ["`customer` is missing", "`price` is not known"]
    );
    assert_eq!(differences("integer | [string]", &[1]), ["`[]` is an integer and not a string"]);
    assert_eq!(differences("integer | boolean", &"x"), ["it is a string and not a boolean or an integer"]);
    assert_eq!(differences("{*: integer}", &Line { price: 1.5 }), ["`price` is a float and not an integer"]);
}

#[test]
fn two_schemas_are_compared_as_what_follows_them_would_be() {
    let expected = schema("{customer: string, pieces: integer}");
    let told = |text| expected.differences(&schema(text));
    assert_eq!(told("{pieces: integer, customer: string}"), [""; 0]);
    assert_eq!(told("{pieces?: integer, customer: string}"), ["`pieces` may be missing"]);
    assert_eq!(told("string"), ["it is a string and not a map"]);
    assert_eq!(schema("{pieces?: integer}").differences(&schema("{pieces: integer?}")), [""; 0]);
}

#[test]
fn a_fingerprint_is_of_what_is_meant_and_not_of_how_it_is_written() {
    let one = schema("{ b : [ string|integer ] , a? : float }");
    let same = schema("{a: nil | float, b: [integer | string]}");
    assert_eq!((one.fingerprint(), one.to_string()), (same.fingerprint(), same.to_string()));
    assert_ne!(one.fingerprint(), schema("{a: float, b: [integer | string]}").fingerprint());
    // Others have to come to the same number.
    assert_eq!(schema("string").fingerprint(), "#704be0d8faaffc58");
}

#[test]
fn a_sample_gives_its_schema_and_leaves_open_what_it_does_not_show() {
    let full = Order { lines: vec![Line { price: 1.5 }], ..ORDER };
    let of = |value: &Order| Schema::of(value).unwrap().to_string();
    assert_eq!(of(&full), "{customer: string, lines: [{price: float}], note?: any, pieces: integer}");
    assert_eq!(of(&ORDER), "{customer: string, lines: [any], note?: any, pieces: integer}");
}

#[test]
fn what_is_no_schema_says_where() {
    for (text, at, what) in [
        ("", 0, "a kind is expected"),
        ("text", 0, "a kind is expected"),
        ("{a: string", 10, "`,` or `}`"),
        ("{a string}", 3, "`:` is expected"),
        ("{a: string, a: string}", 21, "an earlier one"),
        ("[string", 7, "`]` is expected"),
        ("string string", 7, "something follows"),
        ("{\"a: string}", 12, "no end"),
    ] {
        let error = text.parse::<Schema>().unwrap_err();
        assert_eq!(error.at, at, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(deep.parse::<Schema>().is_err());
}

#[test]
fn choices_within_choices_are_compared_once() {
    let levels = 100;
    let expected = format!("{}integer{}", "[".repeat(levels), "]?".repeat(levels));
    let actual = format!("{}string{}", "[".repeat(levels), "]".repeat(levels));
    let told = schema(&expected).differences(&schema(&actual));
    assert_eq!(told, [format!("`{}` is a string and not an integer", "[]".repeat(levels))]);
}

#[test]
fn hostile_payloads_are_refused_and_harm_nobody() {
    let deep = vec![0x91; 1_000_000];
    assert!(read::shape(&deep).is_err());
    let wide: Vec<(u32, u32)> = (0..100_000).map(|number| (number, 0)).collect();
    let wide: std::collections::BTreeMap<_, _> = wide.into_iter().collect();
    let error = read::shape(&rmp_serde::to_vec(&wide).unwrap()).unwrap_err();
    assert!(error.contains("different parts"), "{error}");
    let records: Vec<_> = (0..100).map(|number| [(number.to_string(), 0)].into_iter().collect()).collect();
    let records: Vec<std::collections::BTreeMap<String, u8>> = records;
    let shape = read::shape(&rmp_serde::to_vec(&records).unwrap()).unwrap();
    assert_eq!(shape, Shape::List(Box::new(Shape::Mixed)));
    assert_eq!(schema("[any]").differences(&Schema(shape.clone())), [""; 0]);
    assert_eq!(
        schema("[integer]").differences(&Schema(shape)),
        ["`[]` is of too many kinds and not an integer"]
    );
}

fn shapes() -> impl Strategy<Value = Shape> {
    let leaves = prop::sample::select(vec![
        Shape::Any,
        Shape::Nil,
        Shape::Boolean,
        Shape::Integer,
        Shape::Float,
        Shape::String,
        Shape::Binary,
    ]);
    leaves.prop_recursive(4, 32, 4, |inner| {
        let member = (inner.clone(), any::<bool>()).prop_map(|(shape, optional)| {
            let (shape, takes_nil) = shape.without_nil();
            Member { shape, optional: optional || takes_nil }
        });
        prop_oneof![
            inner.clone().prop_map(|shape| Shape::List(Box::new(shape))),
            inner.clone().prop_map(|shape| Shape::Map(Box::new(shape))),
            prop::collection::vec(inner, 1..4).prop_map(Shape::one_of),
            (prop::collection::btree_map("[a-c\"\\\\ ä]{0,3}", member, 0..4), any::<bool>())
                .prop_map(|(members, open)| Shape::Record { members, open }),
        ]
    })
}

proptest! {
    #[test]
    fn a_schema_reads_back_as_it_was_written(shape in shapes()) {
        let written = Schema(shape);
        prop_assert_eq!(schema(&written.to_string()), written);
    }

    #[test]
    fn reading_neither_panics_nor_hangs(text in "[\\[\\]{}|?:,.*\" a-c]{0,64}", payload: Vec<u8>) {
        let _ = text.parse::<Schema>();
        let _ = read::shape(&payload);
    }

    #[test]
    fn a_schema_fits_itself(shape in shapes()) {
        let own = Schema(shape);
        prop_assert_eq!(own.differences(&own), Vec::<String>::new());
    }
}
