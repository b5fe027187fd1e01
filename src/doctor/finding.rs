//! What a check found: how bad it is, what shows it, what to do.

use serde::Serialize;

/// How bad a finding is; later ones are worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Info,
    /// gyre works, but slower, or not for everybody.
    Warning,
    /// gyre does not work like this.
    Error,
}

impl Severity {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub evidence: String,
    /// What to do; null where nothing is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    /// Nothing to be done.
    pub fn ok(check: &'static str, evidence: impl Into<String>) -> Self {
        Finding { check, severity: Severity::Ok, evidence: evidence.into(), remedy: None }
    }

    /// Worth knowing.
    pub fn info(check: &'static str, evidence: impl Into<String>) -> Self {
        Finding { check, severity: Severity::Info, evidence: evidence.into(), remedy: None }
    }

    /// Works, but not well.
    pub fn warning(check: &'static str, evidence: String, remedy: String) -> Self {
        Finding { check, severity: Severity::Warning, evidence, remedy: Some(remedy) }
    }

    /// Does not work.
    pub fn error(check: &'static str, evidence: String, remedy: String) -> Self {
        Finding { check, severity: Severity::Error, evidence, remedy: Some(remedy) }
    }
}

/// The worst of all; `Ok` where there is nothing.
pub fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
}
