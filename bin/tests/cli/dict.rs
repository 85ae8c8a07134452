//! `whispeer dict`: dictionaries from samples, and what it says of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use whispeer::engine::compression::{Compression, Dictionary};
use whispeer::engine::{Content, Context, Engine, Memory, MessageKind};

use crate::support::{Ended, Place};

fn record(number: u32) -> String {
    let mixed = number.wrapping_mul(0x9E37_79B9);
    let state = ["new", "paid", "packed", "sent"][(mixed >> 28) as usize % 4];
    format!(
        r#"{{"order":{},"customer":"customer-{}","state":"{state}","currency":"EUR","address":"Main Street"}}"#,
        1000 + number,
        mixed >> 20
    )
}

fn lines(count: u32) -> String {
    (0..count).map(|number| record(number) + "\n").collect()
}

fn train(place: &Place, arguments: &[&str], input: &str) -> Ended {
    place.run_with_input(&[&["dict", "train"], arguments].concat(), input.as_bytes())
}

fn dictionary(place: &Place, file: &str) -> Dictionary {
    Dictionary::from_bytes(&fs::read(place.path(file)).unwrap()).unwrap()
}

fn refused(ended: &Ended, error: &str, help: &str) {
    assert_eq!(ended.code(), 2, "{ended:?}");
    assert!(ended.errors.contains(error) && ended.errors.contains(help), "{ended:?}");
}

#[test]
fn a_dictionary_is_trained_from_lines_and_says_what_it_gains() {
    let place = Place::new();
    let ended = train(&place, &["--lines", "--output", "orders.dict", "--size", "4KiB"], &lines(2_000));
    let dictionary = dictionary(&place, "orders.dict");
    let begins = format!("whispeer: made orders.dict: dictionary {} of ", dictionary.id());
    assert!(ended.errors.starts_with(&begins), "{ended:?}");
    assert!(ended.errors.ends_with("from 1,800 samples\n"), "{ended:?}");
    let output = ended.success();
    let rows: Vec<&str> = output.lines().collect();
    assert!(rows[0].starts_with("held out    200 samples, "), "{output}");
    let share = |row: &str| {
        let percent = row.rsplit('(').next().unwrap().trim_end_matches(" %)");
        percent.parse::<f64>().unwrap()
    };
    assert!(rows[1].starts_with("without it  ") && rows[2].starts_with("with it     "), "{output}");
    assert!(share(rows[2]) < 60.0 && share(rows[2]) < share(rows[1]), "{output}");
    assert!(dictionary.as_bytes().len() <= 4096);
    let mode = fs::metadata(place.path("orders.dict")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn samples_become_what_is_published_and_with_raw_are_their_bytes() {
    let place = Place::new();
    train(&place, &["--lines", "--output", "packed", "--size", "2KiB"], &lines(1_000)).success();
    train(&place, &["--lines", "--raw", "--output", "raw", "--size", "2KiB"], &lines(1_000)).success();
    let sealed = |file: &str, bytes: &[u8]| {
        let engine = Compression::new().dictionary(dictionary(&place, file));
        let context = Context::new("a", MessageKind::Publish);
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        engine.seal(&context, Content { tag: 0, bytes }, &mut sealed).unwrap();
        engine.open(&context, &mut Memory::default(), &sealed, &mut opened).unwrap();
        assert_eq!(opened, bytes);
        sealed.len()
    };
    let text = record(77_777).into_bytes();
    assert!(sealed("raw", &text) < sealed("packed", &text));
}

#[test]
fn a_dictionary_is_trained_from_files_of_a_sample_each() {
    let place = Place::new();
    let names: Vec<String> = (0..300).map(|number| format!("sample-{number}.json")).collect();
    for (number, name) in names.iter().enumerate() {
        place.write(name, &record(number as u32));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let output =
        train(&place, &[&["--output", "files", "--size", "1KiB"], &names[..]].concat(), "").success();
    assert!(output.starts_with("held out    30 samples, "), "{output}");
    dictionary(&place, "files");
}

#[test]
fn a_file_that_is_there_is_not_replaced() {
    let place = Place::new();
    place.write("orders.dict", "mine");
    let ended = train(&place, &["--lines", "--output", "orders.dict"], &lines(1_000));
    refused(&ended, "error: orders.dict is there already", "help: choose another name");
    assert_eq!(fs::read_to_string(place.path("orders.dict")).unwrap(), "mine");
}

#[test]
fn samples_that_do_not_do_are_refused_and_no_file_is_made() {
    let place = Place::new();
    let output = ["--lines", "--output", "orders.dict"];
    refused(&train(&place, &output, &lines(3)), "3 samples of ", "too few to train");
    refused(&train(&place, &output, ""), "0 samples of 0 bytes are too few", "");
    refused(&train(&place, &output, "1\nyes\n"), "line 2 is not JSON", "add --raw");
    let huge = [&output[..], &["--size", "1GiB"]].concat();
    refused(&train(&place, &huge, &lines(1_000)), "256 to 1048576 bytes", "");
    let missing = train(&place, &["nowhere.json", "--output", "orders.dict"], "");
    assert_eq!(
        (missing.code(), missing.errors.contains("cannot open nowhere.json")),
        (1, true),
        "{missing:?}"
    );
    assert!(!place.path("orders.dict").exists());
    for arguments in [&["--output", "x"][..], &["--lines"], &["--lines", "file", "--output", "x"]] {
        assert_eq!(train(&place, arguments, "").code(), 2);
    }
}

#[test]
fn training_explains_itself() {
    let place = Place::new();
    let help = place.run(&["dict", "train", "--help"]).success();
    assert!(help.contains("Examples:") && help.contains("[default: 16KiB]"), "{help}");
    assert_eq!(place.run(&["dict"]).code(), 2);
}
