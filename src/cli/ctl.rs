//! `gyre ctl`: any method of the control socket.

use std::io::{Read, Write};

use anyhow::Context;
use serde_json::Value;
use serde_json::value::to_raw_value;

use super::args::SocketArgs;
use super::{BadUsage, Out};
use crate::control::api::METHODS;

/// Call a method of the control socket and print its result
#[derive(Debug, clap::Args)]
#[command(after_help = methods())]
pub struct Args {
    /// Method, such as `status`
    method: String,
    /// Parameters as a JSON object; `-` reads them from standard input
    #[arg(value_name = "JSON")]
    params: Option<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// The list of methods, for the help text.
fn methods() -> String {
    let width = METHODS.iter().map(|method| method.name.len()).max().unwrap_or(0);
    let lines: Vec<String> = METHODS
        .iter()
        .map(|method| {
            let about = method.about.split_inclusive(". ").next().unwrap_or_default();
            format!("  {:<width$}  {}", method.name, about.trim_end())
        })
        .collect();
    format!("Methods (docs/CONTROL_API.md):\n{}", lines.join("\n"))
}

/// Calls and prints.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let params = match args.params.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            Some(object(&text)?)
        }
        Some(text) => Some(object(text)?),
        None => None,
    };
    let params = params.map(|params| to_raw_value(&params)).transpose()?;
    let result = args.socket.connect()?.call_raw(&args.method, params.as_deref())?;
    print_json(result.get(), out)
}

fn object(text: &str) -> anyhow::Result<Value> {
    let usage = |what: String| {
        BadUsage(format!("parameters: {what}; give an object such as '{{\"limit\":10}}'"))
    };
    let value: Value = serde_json::from_str(text).map_err(|e| usage(format!("not JSON: {e}")))?;
    if !value.is_object() {
        return Err(usage("not a JSON object".into()).into());
    }
    Ok(value)
}

/// Prints JSON for people and programs: indented, one newline at the end.
pub fn print_json(json: &str, out: &mut Out<'_>) -> anyhow::Result<()> {
    let value: Value = serde_json::from_str(json)?;
    // Not through serde_json: its error would hide a closed pipe's.
    let text = serde_json::to_string_pretty(&value)?;
    writeln!(out, "{text}")?;
    Ok(())
}
