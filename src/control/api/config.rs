//! `config.*`: the whole configuration at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How to show the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConfigFormat {
    /// As a JSON object.
    #[default]
    Json,
    /// As text for a file.
    Toml,
}

/// Parameters of `config.get`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetParams {
    /// JSON object or TOML text.
    #[serde(default)]
    pub format: ConfigFormat,
    /// A revision that `config.revisions` lists, instead of what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// A configuration in one of its two forms, which share one schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ConfigText {
    /// TOML text, as in a file.
    Toml(String),
    /// The same as a JSON object.
    Json(Map<String, Value>),
}

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigResult {
    /// Its revision; the one in force unless another was asked for.
    pub revision: u64,
    /// The configuration, with what was changed over the socket since the start.
    pub config: ConfigText,
}

/// Parameters of `config.apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyParams {
    /// The whole new configuration.
    pub config: ConfigText,
    /// Only check it and tell what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Go back to what runs now unless `config.confirm` is called within so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_s: Option<u64>,
    /// The file it comes from, for `config.revisions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Parameters of `config.reload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReloadParams {
    /// Only check the file and tell what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Go on where changes that were not saved would be lost.
    #[serde(default)]
    pub discard: bool,
    /// Go back to what runs now unless `config.confirm` is called within so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_s: Option<u64>,
}

/// Parameters of `config.rollback`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackParams {
    /// The revision to go back to; the one before that in force unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Only tell what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Go forth again unless `config.confirm` is called within so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_s: Option<u64>,
}

/// The whole configuration was replaced, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApplyResult {
    /// The revision that holds it; in force on every worker that turns (`workers.list`).
    pub revision: u64,
    /// What changed, a line each; empty when nothing did.
    pub changes: Vec<String>,
    /// Which of the changes made over the socket and not saved this undid.
    pub lost: Vec<String>,
    /// With `dry_run`: what only a restart can change, so that it would be refused.
    pub needs_restart: Vec<String>,
    /// Seconds until it is taken back unless it is confirmed.
    pub confirm_within_s: Option<u64>,
}

/// Result of `config.confirm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfirmResult {
    /// The revision that stays.
    pub revision: u64,
}

/// Parameters of `config.save`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveParams {
    /// Write even though the file was changed since it was loaded.
    #[serde(default)]
    pub overwrite: bool,
    /// Only tell what would be written.
    #[serde(default)]
    pub dry_run: bool,
}

/// Result of `config.save`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SaveResult {
    /// The revision that was saved.
    pub revision: u64,
    /// The file.
    pub path: String,
    /// What the file did not have; empty when there was nothing to write.
    pub changes: Vec<String>,
}

/// A configuration that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevisionRow {
    /// Its number. Numbers leave gaps: routes and drains take some.
    pub revision: u64,
    /// When it came into force, seconds since 1970.
    pub time_s: u64,
    /// What made it: a command, a method.
    pub by: String,
    /// Whether it is the one in force.
    pub running: bool,
    /// Number of virtual services.
    pub services: u32,
    /// What it changed, the first lines.
    pub changes: Vec<String>,
}

/// Result of `config.revisions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevisionsResult {
    /// The newest first; older ones are forgotten.
    pub revisions: Vec<RevisionRow>,
    /// What runs and is not in the file: a reload would undo it.
    pub unsaved: Vec<String>,
    /// Seconds until the one in force is taken back unless it is confirmed.
    pub confirm_within_s: Option<u64>,
}
