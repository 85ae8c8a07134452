//! Certificates, keys and lists of revocations, from files or text.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::error::{BusError, BusResult};
use crate::limits;

/// Text in the form of PEM (RFC 7468), or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Pem {
    File(PathBuf),
    Text(Arc<Zeroizing<Vec<u8>>>),
}

impl Pem {
    pub(super) fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    pub(super) fn text(text: impl Into<Vec<u8>>) -> Self {
        Self::Text(Arc::new(Zeroizing::new(text.into())))
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// A certificate, and those that lead from it to its CA.
    pub(super) fn chain(&self) -> BusResult<Vec<CertificateDer<'static>>> {
        self.all("certificate", "BEGIN CERTIFICATE")
    }

    /// The certificates of CAs.
    pub(super) fn roots(&self) -> BusResult<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in self.all("CA's certificate", "BEGIN CERTIFICATE")? {
            roots.add(certificate).map_err(|error| self.unusable("CA's certificate", &error.to_string()))?;
        }
        Ok(roots)
    }

    /// Lists of revocations.
    pub(super) fn revocations(&self) -> BusResult<Vec<CertificateRevocationListDer<'static>>> {
        self.all("list of revocations", "BEGIN X509 CRL")
    }

    /// A private key. The error says nothing of what stands there.
    pub(super) fn key(&self) -> BusResult<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(&self.read()?)
            .map_err(|_| self.unusable("private key", "it holds none (BEGIN PRIVATE KEY)"))
    }

    fn all<T: PemObject>(&self, what: &str, label: &str) -> BusResult<Vec<T>> {
        let text = self.read()?;
        let items: Result<Vec<T>, _> = T::pem_slice_iter(&text).collect();
        match items {
            Ok(items) if items.is_empty() => Err(self.unusable(what, &format!("it holds none ({label})"))),
            Ok(items) => Ok(items),
            Err(_) => Err(self.unusable(what, "its text is damaged")),
        }
    }

    fn read(&self) -> BusResult<Arc<Zeroizing<Vec<u8>>>> {
        match self {
            Self::Text(text) => Ok(Arc::clone(text)),
            Self::File(path) => match read(path) {
                Ok(text) => Ok(Arc::new(text)),
                Err(error) => {
                    Err(BusError::InvalidSettings(format!("cannot read {}: {error}", path.display())))
                }
            },
        }
    }

    /// The error for what cannot be used as `what`.
    pub(super) fn unusable(&self, what: &str, reason: &str) -> BusError {
        BusError::InvalidSettings(format!("{self} cannot be used as a {what}: {reason}"))
    }
}

/// Reads a file that may hold a key.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > limits::PEM_FILE {
        return Err(io::Error::other(format!("it is larger than {} bytes", limits::PEM_FILE)));
    }
    // Room for all of it, so that no copy of a key is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(limits::PEM_FILE as u64).read_to_end(&mut text)?;
    Ok(text)
}

impl fmt::Display for Pem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "{}", path.display()),
            Self::Text(_) => formatter.write_str("the text that was given"),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(formatter),
            Self::Text(_) => formatter.write_str("(text)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_or_not_what_it_should_be_is_told_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.pem");
        let error = Pem::file(&path).chain().unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", path.display())), "{error}");
        std::fs::write(&path, "hello").unwrap();
        let error = Pem::file(&path).chain().unwrap_err().to_string();
        assert!(
            error.ends_with("cannot be used as a certificate: it holds none (BEGIN CERTIFICATE)"),
            "{error}"
        );
        assert!(Pem::file(&path).key().is_err() && Pem::file(&path).revocations().is_err());
        std::fs::write(&path, vec![b'-'; limits::PEM_FILE + 1]).unwrap();
        assert!(Pem::file(&path).key().unwrap_err().to_string().contains("larger"));
    }

    #[test]
    fn debug_output_and_errors_show_no_key() {
        let pem = Pem::text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n");
        let error = pem.key().unwrap_err();
        assert!(!format!("{pem:?} {pem} {error} {error:?}").contains("c2Vj"));
    }
}
