//! Certificates that are made for one scenario.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use tempfile::TempDir;

use super::ServerError;

/// Who signs certificates. The files of what it signed go with it.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: Arc<TempDir>,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    _folder: Arc<TempDir>,
}

#[expect(clippy::needless_pass_by_value, reason = "errors are mapped by it")]
fn wrong(error: rcgen::Error) -> ServerError {
    ServerError::new(format!("no certificate: {error}"))
}

impl Authority {
    /// One that nobody has heard of.
    ///
    /// # Errors
    /// When there is no room for its files.
    pub fn new() -> Result<Self, ServerError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "catga tests");
        let key = KeyPair::generate().map_err(wrong)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(wrong)?;
        let folder = Arc::new(TempDir::with_prefix("catga-certificates-")?);
        let this = Self { issuer, folder };
        std::fs::write(this.certificate(), this.issuer.pem())?;
        Ok(this)
    }

    /// Its own certificate, PEM: for those who trust it.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for a server of this name or address.
    ///
    /// # Errors
    /// When there is no room for its files.
    pub fn sign(&self, host: &str) -> Result<Certificate, ServerError> {
        self.signed(host, "valid", |_| {})
    }

    /// The same, of which the time is over.
    ///
    /// # Errors
    /// When there is no room for its files.
    pub fn sign_expired(&self, host: &str) -> Result<Certificate, ServerError> {
        self.signed(host, "expired", |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    fn signed(
        &self,
        host: &str,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Certificate, ServerError> {
        let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(wrong)?;
        change(&mut params);
        let key = KeyPair::generate().map_err(wrong)?;
        let signed = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        let file = |suffix: &str| self.folder.path().join(format!("{host}-{name}.{suffix}"));
        let made = Certificate {
            certificate: file("pem"),
            key: file("key"),
            _folder: Arc::clone(&self.folder),
        };
        std::fs::write(&made.certificate, signed.pem())?;
        std::fs::write(&made.key, key.serialize_pem())?;
        Ok(made)
    }
}
