//! What a check finds.

use std::io;

/// Why a check did not pass.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// The server did something else than the requirement says.
    Failed(String),
    /// The requirement does not hold for this server or this run.
    NotApplicable(String),
}

pub(crate) type Outcome = Result<(), Verdict>;

pub(crate) fn fail<T>(why: impl Into<String>) -> Result<T, Verdict> {
    Err(Verdict::Failed(why.into()))
}

pub(crate) fn skip<T>(why: impl Into<String>) -> Result<T, Verdict> {
    Err(Verdict::NotApplicable(why.into()))
}

/// Fails with these words unless it holds.
pub(crate) fn ensure(holds: bool, otherwise: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { fail(otherwise) }
}

impl From<io::Error> for Verdict {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("a socket failed: {error}"))
    }
}
