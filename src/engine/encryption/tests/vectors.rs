//! Reads published cases.

use serde_json::Value;

/// One line of a file: an id, hexadecimal columns, and perhaps whether it is valid.
pub(in crate::engine::encryption) struct Case {
    pub(in crate::engine::encryption) id: u64,
    pub(in crate::engine::encryption) columns: Vec<Vec<u8>>,
    pub(in crate::engine::encryption) is_valid: bool,
}

pub(in crate::engine::encryption) fn cases(text: &str) -> Vec<Case> {
    let document: Value = serde_json::from_str(text).unwrap();
    let rows = document["cases"].as_array().unwrap().iter();
    let case = |row: &Value| {
        let row = row.as_array().unwrap();
        let is_valid = row.last().and_then(Value::as_bool).unwrap_or(true);
        let columns = row.iter().filter_map(Value::as_str).map(bytes).collect();
        Case { id: row[0].as_u64().unwrap(), columns, is_valid }
    };
    rows.map(case).collect()
}

pub(in crate::engine::encryption) fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
