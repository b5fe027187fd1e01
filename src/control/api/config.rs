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

/// The running configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigResult {
    /// Revision in force.
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
}
