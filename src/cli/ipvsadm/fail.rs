//! Why a command line is not carried out, and how ipvsadm says so.

/// A refusal: what standard error gets, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fail {
    /// Exit code.
    pub code: u8,
    /// Without its newline.
    pub message: String,
    /// Whether the rest of what `-R` reads is not looked at any more.
    pub ends_restore: bool,
}

impl Fail {
    /// A bad value or combination.
    pub fn usage(message: impl Into<String>) -> Self {
        Fail { code: 2, message: message.into(), ends_restore: true }
    }

    /// No command, or one that does not exist.
    pub fn try_help() -> Self {
        let message = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.".into();
        Fail { code: 255, message, ends_restore: true }
    }

    /// What popt refuses.
    pub fn option(word: &str, why: &str) -> Self {
        Fail { code: 255, message: format!("{word}: {why}"), ends_restore: false }
    }

    /// What the director refuses.
    pub fn refused(message: impl Into<String>) -> Self {
        Fail { code: 255, message: message.into(), ends_restore: false }
    }

    /// What gyre, unlike the kernel, cannot do.
    pub fn lacking(what: &str) -> Self {
        Fail::refused(format!("gyre: {what}"))
    }

    /// There is no director to talk to.
    pub fn no_director(error: &dyn std::fmt::Display) -> Self {
        Fail { code: 2, message: format!("Can't initialize ipvs: {error}"), ends_restore: true }
    }
}
