//! Secrets and users, each in a file of its own.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use whispeer::auth::Secret;
use whispeer_gateway::settings::PopSubUser;
use zeroize::Zeroizing;

use crate::failure::{FAILED, Failure};

/// Bytes of the largest file that is read.
const FILE_LIMIT: u64 = 1024 * 1024;

/// The text of a file.
fn text(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let cannot =
        |error: std::io::Error| Failure::new(FAILED, format!("cannot read {}: {error}", path.display()));
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path).map_err(cannot)?;
    let length = file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(cannot)?;
    match length as u64 > FILE_LIMIT {
        true => Err(Failure::usage(format!("{} has more than {FILE_LIMIT} bytes", path.display()))),
        false => Ok(text),
    }
}

/// The secret that is the only line of a file.
pub(super) fn secret(path: &Path) -> Result<Secret, Failure> {
    let mut lines = lines(path)?;
    match (lines.pop(), lines.is_empty()) {
        (Some(secret), true) => Ok(secret),
        _ => {
            let failure =
                Failure::usage(format!("{} has not one line, which would be the secret", path.display()));
            Err(failure.help("make one: `openssl rand -base64 32`"))
        }
    }
}

/// The lines of a file that say something.
pub(super) fn lines(path: &Path) -> Result<Vec<Secret>, Failure> {
    let text = text(path)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Users {
    #[serde(default)]
    users: Vec<User>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    name: String,
    password: Secret,
    #[serde(default)]
    roles: Vec<String>,
}

/// The users of the dialect of PopSub.
pub(super) fn users(path: &Path) -> Result<Vec<PopSubUser>, Failure> {
    let text = text(path)?;
    // What the parser cites may be a password.
    let read: Users = toml::from_str(&text).map_err(|error| {
        let line =
            error.span().map(|at| 1 + text.bytes().take(at.start).filter(|byte| *byte == b'\n').count());
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        Failure::usage(format!("{}{line}: {}", path.display(), error.message()))
            .help("write tables [[users]] with name, password (a hash by `whispeer passwd`) and roles")
    })?;
    let users = read.users.into_iter();
    Ok(users.map(|User { name, password, roles }| PopSubUser { name, password, roles }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_secret_is_the_only_line() {
        assert_eq!(secret(file("open sesame\n").path()).unwrap().reveal(), "open sesame");
        for wrong in ["", "\n", "one\ntwo\n"] {
            assert!(secret(file(wrong).path()).is_err());
        }
    }

    #[test]
    fn what_is_wrong_with_users_is_told_with_its_line_and_without_passwords() {
        let read =
            users(file("[[users]]\nname = \"ann\"\npassword = \"hash\"\nroles = [\"a\"]\n").path()).unwrap();
        assert_eq!((read[0].name.as_str(), read[0].roles.len()), ("ann", 1));
        let error = users(file("[[users]]\nname = \"ann\"\npassword = 12345678\n").path()).err().unwrap();
        let text = format!("{error:?}");
        assert!(text.contains(":3") && !text.contains("12345678"), "{text}");
    }
}
