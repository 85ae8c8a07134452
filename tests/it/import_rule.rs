//! Imports point downward only.

use std::fs;
use std::path::{Path, PathBuf};

/// What each part of the library may import from others.
const RULES: [(&str, &[&str]); 17] = [
    ("topic", &["limits"]),
    ("limits", &[]),
    ("histogram", &[]),
    ("json", &[]),
    ("error", &["topic", "limits"]),
    ("trace", &["error"]),
    ("proto", &["topic", "limits", "error"]),
    ("auth", &["proto", "topic", "limits", "error"]),
    ("transport", &["auth", "proto", "topic", "limits", "error"]),
    ("engine", &["proto", "topic", "limits", "error"]),
    ("store", &["histogram", "topic", "limits", "error"]),
    ("plugin", &["engine", "store", "auth", "proto", "topic", "limits", "error"]),
    ("bus", &["plugin", "transport", "store", "auth", "proto", "histogram", "topic", "limits", "error"]),
    ("client", &["transport", "engine", "auth", "proto", "trace", "topic", "limits", "error"]),
    (
        "broker",
        &[
            "bus",
            "client",
            "transport",
            "plugin",
            "engine",
            "store",
            "auth",
            "proto",
            "topic",
            "limits",
            "error",
        ],
    ),
    ("prelude", &["bus", "client", "transport", "engine", "auth", "proto", "topic", "limits", "error"]),
    (
        "lib",
        &[
            "broker",
            "bus",
            "client",
            "transport",
            "engine",
            "auth",
            "proto",
            "topic",
            "limits",
            "error",
            "prelude",
        ],
    ),
];

/// Parts that know neither I/O nor a clock.
const PURE: [&str; 3] = ["topic", "limits", "proto"];

/// Names that `lib.rs` exports from a part, and the part.
const EXPORTED: [(&str, &str); 12] = [
    ("Broker", "broker"),
    ("BrokerOptions", "broker"),
    ("Bus", "bus"),
    ("BusHandle", "bus"),
    ("Client", "client"),
    ("BusError", "error"),
    ("BusResult", "error"),
    ("EngineError", "error"),
    ("ErrorClass", "error"),
    ("ErrorReply", "error"),
    ("Topic", "topic"),
    ("TopicPattern", "topic"),
];

fn source_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" {
                source_files(&path, files);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "oracle.rs" {
            files.push(path);
        }
    }
}

/// The code of a file: without comments, and up to its test module, which stands last.
fn code(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..tests].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The first names after each `crate::`, those in braces one by one.
fn imports(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, pattern) in code.match_indices("crate::") {
        let inside_of_a_word = code[..at].ends_with(|last: char| last.is_alphanumeric() || last == '_');
        if inside_of_a_word || code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + pattern.len()..];
        match rest.strip_prefix('{') {
            None => names.push(word(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut begins = true;
                for (index, character) in list.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        _ if begins && depth == 0 && !character.is_whitespace() => {
                            names.push(word(&list[index..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn imports_point_downward_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&source, &mut files);
    assert!(files.len() > 50, "the library has more files than {}", files.len());
    for file in files {
        let relative = file.strip_prefix(&source).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let own = first.trim_end_matches(".rs");
        let (_, allowed) = RULES
            .iter()
            .find(|(part, _)| *part == own)
            .unwrap_or_else(|| panic!("the import rule says nothing about src/{first}"));
        let code = code(&fs::read_to_string(&file).unwrap());
        for import in imports(&code) {
            let part = EXPORTED.iter().find(|(name, _)| *name == import).map_or(&*import, |(_, part)| part);
            assert!(
                part == own || allowed.contains(&part),
                "{}: {own} must not import crate::{import}",
                relative.display()
            );
        }
        if PURE.contains(&own) {
            assert!(!code.contains("tokio"), "{}: {own} must not know tokio", relative.display());
        }
    }
}

#[test]
fn the_reader_of_imports_sees_what_it_should() {
    let code = code(
        "use crate::bus::Bus; // crate::client\nuse crate::{topic::{Topic, deep::X}, proto,\n error};\n\
         fn f() { crate::limits::X }\n#[cfg(test)]\nmod tests {\nuse crate::client;\n}",
    );
    assert_eq!(imports(&code), ["bus", "topic", "proto", "error", "limits"]);
}
