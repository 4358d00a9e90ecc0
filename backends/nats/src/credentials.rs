//! Who we are, told anew at each connect.

use std::path::Path;

use async_nats::{Auth, AuthError, ConnectOptions};
use catga_core::{Error, ErrorKind};

use crate::options::Credentials;

/// Connect options that know who we are.
///
/// What is in a file is read again at each connect, so that a password or key that was changed is the one that the
/// next connect uses.
///
/// # Errors
/// [`Config`](ErrorKind::Config) when a file cannot be read or does not hold what it should.
pub(crate) async fn options(credentials: &Credentials) -> Result<ConnectOptions, Error> {
    match credentials {
        Credentials::None => Ok(ConnectOptions::new()),
        Credentials::Password { user, password } => {
            let (user, password) = (user.clone(), password.clone());
            Ok(ConnectOptions::with_user_and_password(user, password))
        }
        Credentials::Token(token) => Ok(ConnectOptions::with_token(token.clone())),
        Credentials::PasswordFile { user, file } => {
            line(file).await.map_err(|error| unreadable(file, error))?;
            let (user, file) = (user.clone(), file.clone());
            Ok(ConnectOptions::with_auth_callback(move |_| {
                let (user, file) = (user.clone(), file.clone());
                async move {
                    let mut auth = Auth::new();
                    auth.username = Some(user);
                    auth.password = Some(line(&file).await.map_err(AuthError::new)?);
                    Ok(auth)
                }
            }))
        }
        Credentials::TokenFile(file) => {
            line(file).await.map_err(|error| unreadable(file, error))?;
            let file = file.clone();
            Ok(ConnectOptions::with_auth_callback(move |_| {
                let file = file.clone();
                async move {
                    let mut auth = Auth::new();
                    auth.token = Some(line(&file).await.map_err(AuthError::new)?);
                    Ok(auth)
                }
            }))
        }
        Credentials::NkeyFile(file) => {
            let seed = line(file).await.map_err(|error| unreadable(file, error))?;
            Ok(ConnectOptions::with_nkey(seed))
        }
        Credentials::CredsFile(file) => ConnectOptions::with_credentials_file(file)
            .await
            .map_err(|error| unreadable(file, error)),
    }
}

/// The first line of a file. Start-up and reconnects may block for the moment that this takes.
async fn line(file: &Path) -> std::io::Result<String> {
    let file = file.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(file));
    let text = read.await.map_err(std::io::Error::other)??;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map(str::to_owned)
        .ok_or_else(|| std::io::Error::other("the file is empty"))
}

fn unreadable(file: &Path, error: std::io::Error) -> Error {
    let text = format!("the file {} does not say who we are", file.display());
    Error::new(ErrorKind::Config, "connect", text).with_source(error)
}
