//! What a PopSub server is told by its environment, and by a file `.env` in the folder it is started in.

use std::io::Read;
use std::path::Path;

use whispeer::auth::Secret;

use crate::output;

/// Bytes that are read of the file.
const FILE_LIMIT: u64 = 64 * 1024;

/// `SERVER_HOST`, `SERVER_PORT` and `SERVER_JWT_SECRET`. Other programs have variables of the first two names, so they count only
/// where there is the third.
#[derive(Debug, Default)]
pub(crate) struct ServerEnvironment {
    pub(super) jwt_secret: Option<Secret>,
    host: Option<String>,
    port: Option<String>,
    /// Lines of the file that could not be read.
    passed_over: usize,
}

impl ServerEnvironment {
    /// What the process and its folder say; the process goes before the file.
    pub(crate) fn of_process() -> Self {
        let all = Self::read(|name| std::env::var(name).ok(), Path::new(".env"));
        // Without what such a line says: it may be a secret.
        match all.passed_over {
            0 => {}
            1 => output::notice(format_args!(
                "a line of .env is not NAME=VALUE, and is passed over; put a value with spaces in quotes"
            )),
            count => output::notice(format_args!(
                "{count} lines of .env are not NAME=VALUE, and are passed over; put values with spaces in quotes"
            )),
        }
        all
    }

    fn read(find: impl Fn(&str) -> Option<String>, file: &Path) -> Self {
        let mut all = Self {
            jwt_secret: find("SERVER_JWT_SECRET").map(Secret::new),
            host: find("SERVER_HOST"),
            port: find("SERVER_PORT"),
            passed_over: 0,
        };
        // What is not there, is no file, or cannot be read says nothing. Behind the first error of the system nothing is read: what is
        // no file has one after the other, without an end.
        let text = Some(file).filter(|file| file.is_file()).and_then(|file| std::fs::File::open(file).ok());
        let lines = text.map(|text| dotenvy::from_read_iter(text.take(FILE_LIMIT)));
        for line in lines.into_iter().flatten() {
            let (name, value) = match line {
                Ok(pair) => pair,
                // The file is there for other programs as well, which may take what this one does not.
                Err(dotenvy::Error::LineParse(..)) => {
                    all.passed_over += 1;
                    continue;
                }
                Err(_) => break,
            };
            match name.as_str() {
                "SERVER_JWT_SECRET" if all.jwt_secret.is_none() => all.jwt_secret = Some(Secret::new(value)),
                "SERVER_HOST" if all.host.is_none() => all.host = Some(value),
                "SERVER_PORT" if all.port.is_none() => all.port = Some(value),
                _ => {}
            }
        }
        match all.jwt_secret {
            Some(_) => all,
            None => Self { passed_over: all.passed_over, ..Self::default() },
        }
    }

    /// Where it is to listen, if something says so. The defaults of the other half are PopSub's.
    pub(crate) fn address(&self) -> Option<String> {
        if self.host.is_none() && self.port.is_none() {
            return None;
        }
        let host = self.host.as_deref().unwrap_or("127.0.0.1");
        Some(format!("{}{host}:{}", super::SCHEME, self.port.as_deref().unwrap_or("8080")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)], file: &str) -> ServerEnvironment {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        std::fs::write(&path, file).unwrap();
        let find = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned());
        ServerEnvironment::read(find, &path)
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let all = read(&[("SERVER_PORT", "8001")], "SERVER_JWT_SECRET=\"of the file\"\nSERVER_PORT=8000\n");
        assert_eq!(all.jwt_secret.as_ref().unwrap().reveal(), "of the file");
        assert_eq!(all.address().unwrap(), "http://127.0.0.1:8001");
        let all = read(&[("SERVER_JWT_SECRET", "of the process")], "SERVER_JWT_SECRET=of_the_file\n");
        assert_eq!(all.jwt_secret.as_ref().unwrap().reveal(), "of the process");
        assert_eq!(all.address(), None);
    }

    #[test]
    fn names_that_others_use_too_say_nothing_alone() {
        let all = read(&[("SERVER_HOST", "0.0.0.0"), ("SERVER_PORT", "80")], "");
        assert!(all.jwt_secret.is_none() && all.address().is_none());
    }

    #[test]
    fn a_line_that_cannot_be_read_is_passed_over() {
        let all = read(&[], "APP_NAME=My App\nSERVER_JWT_SECRET=secret\n=\nSERVER_PORT=8001\n");
        assert_eq!(all.jwt_secret.as_ref().unwrap().reveal(), "secret");
        assert_eq!((all.address().unwrap().as_str(), all.passed_over), ("http://127.0.0.1:8001", 2));
    }

    #[test]
    fn what_is_no_file_says_nothing_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let all = ServerEnvironment::read(|_| None, folder.path());
        assert!(all.jwt_secret.is_none());
    }
}
