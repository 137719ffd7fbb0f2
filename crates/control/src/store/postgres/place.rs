use std::fmt;
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::store::StoreError;
use crate::store::error::{Cause, cause};

/// The name that the server's lists of connections show, unless the URL says another.
const APPLICATION: &str = "turnery";

/// What a URL may have after the `?`. Others are refused: a mistyped `sslmode` would otherwise be no TLS, and a mistyped
/// `password` would be logged.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Where the database is, and as whom it is used. What it prints has no password.
#[derive(Clone)]
pub(super) struct Place {
    options: PgConnectOptions,
}

impl Place {
    /// From `postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS`. What it does not say is taken from the environment as
    /// `psql` does: `PGHOST`, `PGPASSWORD`, `PGSSLMODE` and others, and the password file.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let fault = |fault: String| StoreError::Url { fault };
        let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
        for parameter in parameters.split('&').filter(|it| !it.is_empty()) {
            let name = parameter.split_once('=').map(|(name, _)| name);
            // What has no form of a name may be part of a password.
            let is_name = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b"_-".contains(&b));
            match name.filter(is_name) {
                Some(name) if PARAMETERS.contains(&name) => {}
                Some(name) => return Err(fault(format!("{name:?} is no parameter that is known"))),
                None => {
                    let hint = "write NAME=VALUE behind `?`; in a password, `?` is %3F and `&` is %26";
                    return Err(fault(format!("a parameter has no name: {hint}")));
                }
            }
        }
        let options = PgConnectOptions::from_str(url).map_err(|error| fault(cause(error).to_string()))?;
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name(APPLICATION),
        };
        Ok(Self { options: options.disable_statement_logging() })
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) fn unreachable(&self, source: Cause) -> StoreError {
        StoreError::Unreachable { store: self.to_string(), source }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.options.get_username();
        write!(f, "postgres://{user}@")?;
        match self.options.get_socket() {
            Some(socket) => write!(f, "{}", socket.display())?,
            None => write!(f, "{}", self.options.get_host())?,
        }
        write!(f, ":{}/{}", self.options.get_port(), self.options.get_database().unwrap_or(user))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_without_its_password() {
        let check =
            |url: &str, shown: &str| assert_eq!(Place::parse(url).unwrap().to_string(), shown, "{url}");
        check("postgres://me:s3cret@db.example/turnery", "postgres://me@db.example:5432/turnery");
        check("postgresql://me@[::1]:5433?password=s3cret&sslmode=require", "postgres://me@[::1]:5433/me");
        check("postgres://me:s3cret@%2Frun%2Fpg/x", "postgres://me@/run/pg:5432/x");
        check("postgres:///x?host=/run/pg&user=me&password=s3cret", "postgres://me@/run/pg:5432/x");
    }

    #[test]
    fn what_is_wrong_with_a_url_is_told_without_its_password() {
        let check = |url: &str, hint: &str| {
            let text = Place::parse(url).err().unwrap().to_string();
            assert!(text.contains(hint) && !text.contains("s3cret"), "{url}: {text}");
        };
        check("postgres://me:s3cret@db:99999/x", "invalid port");
        check("postgres://me:s3/cret@db/x", "invalid");
        check("postgres://db/x?sslmode=maybe", "maybe");
        check("postgres://db/x?pasword=s3cret", "\"pasword\" is no parameter");
    }
}
